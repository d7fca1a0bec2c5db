"""Fifty tasks that read a row, and write it: what is lost on SQLite, and who waits how long."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from benchmarks import contenders, ours
from benchmarks.report import Scale, Section, Table
from benchmarks.rounds import Case
from benchmarks.statements import TABLE, prepare, whole
from db_manager.errors import DbManagerError
from db_manager.unit.factory import UnitOfWorkFactory

NAME = "contention"

#: Units of each task.
TASKS, UNITS = 50, 10
_READ = text(f"SELECT qty FROM {TABLE} WHERE id = 1")
_WRITE = text(f"UPDATE {TABLE} SET qty = :qty WHERE id = 1")
_RESET = text(f"UPDATE {TABLE} SET qty = 0 WHERE id = 1")

_DEFAULTS: Final = "SQLAlchemy's defaults"
_WAL: Final = "WAL"
_IMMEDIATE: Final = "WAL, plain BEGIN IMMEDIATE"
_OURS: Final = "uow.session"

_TEXT = (
    f"{TASKS} tasks do some units each: SELECT a number, UPDATE it to one more, all on one row "
    "of a SQLite file. An update is lost when a unit that was told it had committed is not in the "
    "number. Each contender starts with its connections open; 99 % of the units took at most p99."
)


class Outcome(NamedTuple):
    """One turn of a contender.

    Args:
        committed: Units that were told so.
        lost: Of those, the ones that the row does not know.
        errors: Units that failed.
        p99: Milliseconds.
        total: Seconds of the whole turn.
    """

    committed: int
    lost: int
    errors: int
    p99: float
    total: float


async def measure(scale: Scale) -> Section:
    """Let the contenders take turns on files of their own."""
    rounds, each = (1, 3) if scale.quick else (min(scale.rounds, 5), UNITS)
    async with AsyncExitStack() as stack:
        field = await _field(stack)
        outcomes: dict[str, list[Outcome]] = {name: [] for name in field}
        for i in range(rounds + 1):
            for name, (engine, case) in field.items():
                outcome = await _turn(engine, case, each)
                if i:  # the first opens the connections
                    outcomes[name].append(outcome)
    rows = [
        (
            name,
            sum(each.committed for each in mine),
            sum(each.lost for each in mine),
            sum(each.errors for each in mine),
            statistics.median(each.p99 for each in mine),
            statistics.median(each.p99 / base.p99 for each, base in _pairs(outcomes, name)),
            statistics.median(each.total for each in mine),
        )
        for name, mine in outcomes.items()
    ]
    columns = ("", "committed", "lost", "errors", "p99 ms", "of BEGIN IMMEDIATE", "total s")
    title = f"{TASKS} writers, {TASKS * each * rounds} units of read and write"
    by_name = {str(row[0]): row for row in rows}
    facts = {
        "contention lost": float(by_name[_OURS][2]),
        "contention errors": float(by_name[_OURS][3]),
        "contention p99": float(by_name[_OURS][5]),
    }
    return Section("SQLite under fifty writers", _TEXT, [Table(title, columns, [*rows])], [], facts)


def _pairs(outcomes: dict[str, list[Outcome]], name: str) -> list[tuple[Outcome, Outcome]]:
    return list(zip(outcomes[name], outcomes[_IMMEDIATE], strict=True))


async def _change(lane: Any) -> None:
    qty = (await lane.execute(_READ)).scalar_one()
    await lane.execute(_WRITE, {"qty": qty + 1})


async def _field(stack: AsyncExitStack) -> dict[str, tuple[AsyncEngine, Case]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

    async def file(number: int) -> URL:
        url = URL.create("sqlite+aiosqlite", database=str(folder / f"{number}.sqlite3"))
        async with AsyncExitStack() as short:
            await prepare(contenders.engine(short, url))
        return url

    defaults = contenders.engine(stack, await file(1))
    wal = contenders.with_wal(contenders.engine(stack, await file(2)))
    immediate = contenders.with_wal(contenders.engine(stack, await file(3)))
    contenders.with_begin_immediate(immediate)
    field = {
        name: (engine, whole(async_sessionmaker(engine, expire_on_commit=False).begin, _change))
        for name, engine in ((_DEFAULTS, defaults), (_WAL, wal), (_IMMEDIATE, immediate))
    }
    database = ours.open_database(stack, await file(4))
    units = UnitOfWorkFactory(database)
    for name, lane in ((_OURS, "session"), ("uow.connection", "connection")):
        field[name] = database.engine, whole(units, _change, attrgetter(lane))
    return field


async def _turn(engine: AsyncEngine, case: Case, each: int) -> Outcome:
    async with engine.begin() as connection:
        await connection.execute(_RESET)
    times: list[float] = []
    errors = 0

    async def worker() -> None:
        nonlocal errors
        for _ in range(each):
            began = time.perf_counter()
            try:
                await case()
            except (DBAPIError, DbManagerError):
                errors += 1
            else:
                times.append(time.perf_counter() - began)

    total = await _timed(lambda: asyncio.gather(*(worker() for _ in range(TASKS))))
    async with engine.connect() as connection:
        counted: int = (await connection.execute(_READ)).scalar_one()
    p99 = statistics.quantiles(times, n=100)[-1] * 1e3
    return Outcome(len(times), len(times) - counted, errors, p99, total)


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began
