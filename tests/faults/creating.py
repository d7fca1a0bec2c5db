"""Processes that create missing tables at the same moment; run by test_creating_tables.py.

The imports take seconds, so one process imports and forks them: for each line `URL WAY COUNT` it
forks COUNT processes, lets them go together when all are connected, and writes `end` after them.
Each writes what it created, or what went wrong.
"""

import asyncio
import os
import sys

from sqlalchemy import Column, Enum, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable

from db_manager.config import DatabaseConfig
from db_manager.engine import create_engine
from db_manager.schema import create_missing_tables

METADATA = MetaData()
for number in range(5):
    kind = Enum("one", "two", name=f"race__kind{number}")
    Table(f"race__t{number}", METADATA, Column("id", Integer, primary_key=True), Column("k", kind))


async def without_lock(engine: AsyncEngine) -> tuple[str, ...]:
    """Create the tables as one does by hand: the wrong way."""
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    return (str(CreateTable(METADATA.sorted_tables[0])),)


async def main(url: str, way: str, ready: int, gate: int) -> None:
    """Connect, wait for the gate, create."""
    engine = create_engine(DatabaseConfig.model_validate({"url": url}))
    async with engine.connect():
        os.write(ready, b".")
        await asyncio.to_thread(os.read, gate, 1)
        try:
            if way == "with-lock":
                created = await create_missing_tables(engine, METADATA)
            else:
                created = await without_lock(engine)
        except Exception as error:  # noqa: BLE001 -- the test reads what it is
            said = f"failed {type(error).__name__}"
        else:
            said = f"created {len(created)}"
    await engine.dispose()
    os.write(1, f"{said}\n".encode())


def serve() -> None:
    """Fork the processes of each line."""
    for line in sys.stdin:
        url, way, count = line.split()
        (is_ready, ready), (gate, opener) = os.pipe(), os.pipe()
        pids = []
        for _ in range(int(count)):
            pids.append(os.fork())
            if not pids[-1]:
                os.close(opener)
                asyncio.run(main(url, way, ready, gate))
                return
        for _ in pids:
            os.read(is_ready, 1)
        os.close(opener)  # everybody reads the end of the pipe now
        for pid in pids:
            os.waitpid(pid, 0)
        for each in (is_ready, ready, gate):
            os.close(each)
        os.write(1, b"end\n")


if __name__ == "__main__":
    serve()
