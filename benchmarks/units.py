"""The price of a unit of work, side by side with what one would write by hand.

Interleaved rounds in one run; every number is the median of its ratios to
`async_sessionmaker(engine, expire_on_commit=False).begin()` in the same round.

    python -m benchmarks.units [--rounds 9] [--units 300] [URL ...]
"""

import argparse
import asyncio
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from db_manager.config import DatabaseConfig
from db_manager.database import Database
from db_manager.engine import create_engine
from db_manager.factory import UnitOfWorkFactory

Case = Callable[[], Awaitable[object]]
SELECT = text("SELECT 1")
BASE = "sessionmaker.begin()"


def cases(url: str) -> tuple[dict[str, Case], list[Callable[[], Awaitable[None]]]]:
    """Return what is compared on the database at *url*, and what closes it."""
    plain_engine = create_async_engine(url)
    maker = async_sessionmaker(plain_engine, expire_on_commit=False)
    config = DatabaseConfig.model_validate({"url": url})
    database = Database(
        create_engine(config), make_reader=lambda: create_engine(config, read_only=True)
    )
    units = UnitOfWorkFactory(database)

    async def plain() -> None:
        async with maker.begin() as session:
            await session.execute(SELECT)

    async def core() -> None:
        async with plain_engine.begin() as connection:
            await connection.execute(SELECT)

    async def session_lane() -> None:
        async with units() as uow:
            await uow.session.execute(SELECT)

    async def core_lane() -> None:
        async with units() as uow:
            await uow.connection.execute(SELECT)

    async def driver_lane() -> None:
        async with units() as uow:
            await (await uow.driver()).execute("SELECT 1")

    async def read_only() -> None:
        async with units(read_only=True) as uow:
            await uow.session.execute(SELECT)

    async def empty() -> None:
        async with units():
            pass

    table: dict[str, Case] = {
        BASE: plain,
        "engine.begin()": core,
        "uow.session": session_lane,
        "uow.connection": core_lane,
        "uow.driver()": driver_lane,
        "read_only": read_only,
        "empty unit": empty,
    }
    return table, [plain_engine.dispose, database.dispose]


async def measure(case: Case, units: int, tasks: int) -> tuple[float, float]:
    """Return wall and client CPU microseconds of one unit, *tasks* of them at a time."""

    async def worker() -> None:
        for _ in range(units // tasks):
            await case()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(tasks)))
    done = units // tasks * tasks
    return (time.perf_counter() - wall) / done * 1e6, (time.process_time() - cpu) / done * 1e6


async def compare(url: str, rounds: int, units: int) -> None:
    """Print the table of the database at *url*."""
    table, closers = cases(url)
    for case in table.values():
        await measure(case, 40, 10)
    for title, tasks in (("one after the other", 1), ("50 tasks", 50)):
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in table}
        for _ in range(rounds):
            for name, case in table.items():
                results[name].append(await measure(case, units, tasks))
        print(f"\n{url.split(':', maxsplit=1)[0]}, SELECT 1, {title}")
        print(f"{'':22}{'wall µs':>9}{'ratio':>7}{'cpu µs':>9}{'ratio':>7}")
        for name, values in results.items():
            wall = statistics.median(value[0] for value in values)
            cpu = statistics.median(value[1] for value in values)
            pairs = list(zip(values, results[BASE], strict=True))
            ratios = [statistics.median(mine[i] / base[i] for mine, base in pairs) for i in (0, 1)]
            print(f"{name:22}{wall:9.1f}{ratios[0]:7.2f}{cpu:9.1f}{ratios[1]:7.2f}")
    for close in closers:
        await close()


def main() -> None:
    """Measure the databases given, SQLite in a temporary file when none is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="*", help="postgresql+asyncpg://… or sqlite+aiosqlite:///…")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--units", type=int, default=300, help="units in each round")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        urls = options.urls or [f"sqlite+aiosqlite:///{Path(folder) / 'bench.sqlite3'}"]
        for url in urls:
            asyncio.run(compare(url, options.rounds, options.units))


if __name__ == "__main__":
    main()
