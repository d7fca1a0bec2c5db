"""The price of a unit of work, side by side with what one would write by hand."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url

from benchmarks import contenders, ours
from benchmarks.contenders import BASE, POOL, Units
from benchmarks.goal import fact
from benchmarks.report import Cell, Scale, Section, Table
from benchmarks.rounds import Case, Clock, Sample, interleave, median, ratio
from benchmarks.statements import (
    ADD,
    EMPTY,
    INSERT,
    ORM_WORKS,
    SELECT,
    THREE,
    WORKS,
    clean,
    prepare,
)

NAME = "units"

#: Modes by name: how many tasks work at once.
MODES: Final = {"sequential": 1, "50 tasks": 50}
SAME_WAL: Final = "SQLAlchemy, same WAL"
SAFE_WAL: Final = "SQLAlchemy, same WAL, BEGIN IMMEDIATE"
THREAD: Final = "sqlite3 in a thread (floor)"
IN_PLACE: Final = "sqlite3 on the loop's thread (floor of read_only)"

_TITLES: Final = {
    "asyncpg": "One unit on PostgreSQL (asyncpg)",
    "psycopg": "One unit on PostgreSQL (psycopg)",
    "sqlite": "One unit on SQLite (aiosqlite, a file)",
    "uvloop": "One unit on PostgreSQL (asyncpg), under uvloop",
    "durable": "One unit on PostgreSQL as it comes, on a disk",
}
_WORKS: Final = {
    "asyncpg": (*WORKS, *ORM_WORKS),
    "sqlite": (*WORKS, ADD),
    "psycopg": (INSERT, SELECT, THREE, *ORM_WORKS),
    "uvloop": (INSERT, SELECT, *ORM_WORKS),
    "durable": (INSERT,),
}
#: Who is compared with asyncpg's pool and transaction, by the name of the fact.
_DRIVERS: Final = {"driver": ours.DRIVER_LANE, "floor": contenders.ASYNCPG_FLOOR}
#: Empty units are short: more of them make a turn.
_MANY: Final = 5
_METHOD: Final = (
    f"Every contender has a pool of {POOL} connections; everything else is its default. They "
    "take turns on one table of 1,000 rows, one unit after the other and 50 tasks at once; "
    "statements are `text()` made once. CPU is that of the client's process, all threads; it is "
    f"the steadier column. The base of all ratios is `{BASE}`."
)
_SQLITE_METHOD: Final = (
    "SQLAlchemy's defaults are those of SQLite: a rollback journal and an fsync at every commit, "
    "and no transaction before the first write, so that updates can be lost. Each contender has a "
    "file of its own."
)


async def measure(scale: Scale) -> Section:
    """Measure one setting: `asyncpg`, `psycopg`, `sqlite`, `uvloop` or `durable`."""
    setting = scale.setting or "sqlite"
    if setting == "sqlite" and not scale.quick:
        scale = replace(scale, units=max(MODES["50 tasks"], scale.units // 2))  # they are slow
    async with AsyncExitStack() as stack:
        if setting == "sqlite":
            field = await on_sqlite(stack)
        else:
            field = await on_postgres(stack, make_url(scale.urls[0]), setting)
        works = _WORKS[setting]
        facts: dict[str, float] = {}
        tables = []
        for work in works:
            cases = {name: units[work] for name, units in field.items() if work in units}
            results = await modes(cases, scale, times=_MANY if work == EMPTY else 1)
            for mode, samples in results.items():
                facts |= _facts(setting, work, mode, samples)
            tables.append(compare(work, results))
    text = f"{_METHOD} {_SQLITE_METHOD if setting == 'sqlite' else scale.note}"
    return Section(_TITLES[setting], text, tables, facts=facts)


async def on_postgres(stack: AsyncExitStack, url: URL, setting: str) -> dict[str, Units]:
    """Return who takes part on PostgreSQL."""
    driver = "psycopg" if setting == "psycopg" else "asyncpg"
    url = url.set(drivername=f"postgresql+{driver}")
    engine = contenders.engine(stack, url)
    await prepare(engine)
    stack.push_async_callback(clean, engine)
    database = ours.open_database(stack, url)
    field = contenders.by_hand(engine)
    if setting == "asyncpg":
        field |= contenders.toolkits(stack, engine)
    field |= ours.lanes(database)
    if setting != "durable":
        field |= ours.read_only(database)
    if driver == "asyncpg":
        field[contenders.ASYNCPG_POOLED] = contenders.pooled_asyncpg(engine)
        field[contenders.ASYNCPG] = await contenders.asyncpg_pool(stack, url)
        field[contenders.ASYNCPG_FLOOR] = await contenders.asyncpg_pool(stack, url, reset=False)
        field[contenders.ASYNCPG_READ_FLOOR] = await contenders.asyncpg_reads(stack, url)
    else:
        field |= await contenders.psycopg_pool(stack, url)
    return field


async def on_sqlite(stack: AsyncExitStack) -> dict[str, Units]:
    """Return who takes part on SQLite, in files of their own: the log's mode is the file's."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

    async def file(name: str) -> URL:
        url = URL.create("sqlite+aiosqlite", database=str(folder / f"{name}.sqlite3"))
        async with AsyncExitStack() as short:
            await prepare(contenders.engine(short, url))
        return url

    defaults = contenders.by_hand(contenders.engine(stack, await file("defaults")))
    wal = contenders.with_wal(contenders.engine(stack, await file("wal")))
    safe = contenders.with_wal(contenders.engine(stack, await file("safe")))
    contenders.with_begin_immediate(safe)
    database = ours.open_database(stack, await file("ours"))
    return {
        **defaults,
        SAME_WAL: contenders.by_hand(wal)[BASE],
        SAFE_WAL: contenders.by_hand(safe)[BASE],
        **ours.lanes(database),
        "read_only session": ours.read_only(database)["read_only session"],
        "aiosqlite, one connection": await contenders.raw_aiosqlite(
            stack, str((await file("aiosqlite")).database)
        ),
        THREAD: contenders.raw_sqlite3(stack, str((await file("sqlite3")).database)),
        IN_PLACE: contenders.sqlite3_in_place(stack, str((await file("in_place")).database)),
    }


async def modes(
    cases: Mapping[str, Case],
    scale: Scale,
    *,
    times: int = 1,
    settle: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, dict[str, list[Sample]]]:
    """Let *cases* take turns, one unit after the other and then 50 tasks at once.

    Args:
        cases: What is compared, by name.
        scale: Rounds and units.
        times: How many times the units, where one is very short.
        settle: As for `interleave`.

    Returns:
        Samples by mode and name.
    """
    units = scale.units * times
    return {
        mode: await interleave(
            cases,
            rounds=scale.rounds,
            units=units // 2 if tasks == 1 else units,  # alone, a unit takes longer
            tasks=tasks,
            settle=settle,
        )
        for mode, tasks in MODES.items()
    }


def compare(
    title: str, results: Mapping[str, Mapping[str, list[Sample]]], base: str = BASE
) -> Table:
    """Return the table of *results*: microseconds and ratios to *base*, for each mode.

    Args:
        title: What was done.
        results: Samples by mode and name.
        base: The name whose ratios are 1.
    """
    columns = [""]
    for mode in results:
        columns += [f"{mode}: wall µs", "ratio", "CPU µs", "ratio"]
    clocks: tuple[Clock, ...] = ("wall", "cpu")
    rows: list[tuple[Cell, ...]] = []
    for name in next(iter(results.values())):
        row: list[Cell] = [name]
        for samples in results.values():
            for clock in clocks:
                row += [
                    round(median(samples[name], clock), 1),
                    ratio(samples[name], samples[base], clock),
                ]
        rows.append(tuple(row))
    return Table(title, tuple(columns), rows)


def _facts(
    setting: str, work: str, mode: str, samples: Mapping[str, list[Sample]]
) -> dict[str, float]:
    clocks: tuple[Clock, ...] = ("wall", "cpu")
    facts: dict[str, float] = {}
    for clock in clocks:
        for name, mine in samples.items():
            facts[fact(setting, work, name, f"{mode} {clock}")] = ratio(mine, samples[BASE], clock)
        if setting == "asyncpg" and ours.DRIVER_LANE in samples:
            for name, who in _DRIVERS.items():
                facts[f"{name}/asyncpg | {work} | {mode} {clock}"] = ratio(
                    samples[who], samples[contenders.ASYNCPG], clock
                )
        if setting == "asyncpg" and work == EMPTY and mode == "sequential" and clock == "cpu":
            facts["empty µs"] = median(samples[ours.SESSION_LANE], clock)
        if work == INSERT and SAME_WAL in samples:
            for name, who in {"uow": ours.SESSION_LANE, "floor": THREAD}.items():
                facts[f"{name}/same WAL | {mode} {clock}"] = ratio(
                    samples[who], samples[SAME_WAL], clock
                )
    return facts
