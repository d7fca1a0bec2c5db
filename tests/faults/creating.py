"""Processes that create missing tables at the same moment; run by test_creating_tables.py.

The imports take seconds, so one process imports and forks them: for each line `URL WAY COUNT` it
forks COUNT processes, lets them go together when all are connected, and writes `end` after them.
Each writes what it created, or what went wrong. Those of the wrong way go on together once more,
when all have looked which tables are missing: what makes it wrong happens then, not by chance.
"""

import asyncio
import os
import sys
from typing import Final

from sqlalchemy import Column, Enum, Integer, MetaData, Table, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable
from support.barrier import Barrier

from db_manager.config import DatabaseConfig
from db_manager.engine.create import create_engine
from db_manager.schema import create_missing_tables

METADATA = MetaData()
for number in range(5):
    kind = Enum("one", "two", name=f"race__kind{number}")
    Table(f"race__t{number}", METADATA, Column("id", Integer, primary_key=True), Column("k", kind))


#: The name of the wrong way.
WITHOUT: Final = "without-lock"


async def without_lock(engine: AsyncEngine, looked: Barrier) -> tuple[str, ...]:
    """Create the tables as one does by hand: the wrong way."""
    # `create_all` calls it between its look and its first CREATE; before those of the types.
    event.listen(METADATA, "before_create", lambda *_, **__: looked.wait(), insert=True)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    return (str(CreateTable(METADATA.sorted_tables[0])),)


async def main(url: str, way: str, connected: Barrier, looked: Barrier) -> None:
    """Connect, wait for the others, create."""
    engine = create_engine(DatabaseConfig.model_validate({"url": url}))
    async with engine.connect():
        await asyncio.to_thread(connected.wait)
        try:
            if way == WITHOUT:
                created = await without_lock(engine, looked)
            else:
                created = await create_missing_tables(engine, METADATA)
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
        connected, looked = Barrier(int(count)), Barrier(int(count))
        pids = []
        for _ in range(int(count)):
            pids.append(os.fork())
            if not pids[-1]:
                connected.enter()
                looked.enter()
                asyncio.run(main(url, way, connected, looked))
                return
        connected.open()
        if way == WITHOUT:
            looked.open()
        else:
            looked.enter()
        for pid in pids:
            os.waitpid(pid, 0)
        connected.close()
        looked.close()
        os.write(1, b"end\n")


if __name__ == "__main__":
    serve()
