"""What each observer adds to a unit, and what the look at an idle connection costs."""

from contextlib import AsyncExitStack
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import contenders, ours
from benchmarks.contenders import BASE
from benchmarks.goal import fact
from benchmarks.report import Scale, Section, Table
from benchmarks.rounds import Case, Clock, Sample, median, ratio
from benchmarks.statements import EMPTY, INSERT, SELECT, clean, prepare
from benchmarks.units import compare, modes
from db_manager.database.database import Database
from db_manager.unit.factory import UnitOfWorkFactory

NAME = "prices"

_NOBODY = "nobody"
_TEXT = (
    "The same unit with nobody watching and with each observer attached, side by side: a function "
    "subscribed to `uow.close` that does nothing (which is what it costs to count statements), "
    "logs that filter every line of a good unit out, one JSON line for each unit into /dev/null, "
    "Prometheus metrics, OpenTelemetry spans of unit and statement through the SDK's batch "
    "processor into nothing, and everything together with a tenth of the units traced. The work of "
    "the observers' threads counts as CPU. `of unwatched` is the ratio to the unit that nobody "
    "watches."
)
_LIVENESS_TEXT = "Connections checked at each checkout, and not checked"
_OURS, _UNCHECKED, _PING = "uow.session", "uow.session, no check", "uow.session, pre_ping"
_BASE_PING = f"{BASE}, pool_pre_ping"

Results = dict[str, dict[str, list[Sample]]]
_CLOCKS: tuple[Clock, ...] = ("wall", "cpu")


async def measure(scale: Scale) -> Section:
    """Measure observers on a one-statement and on an empty unit, then the check at checkout."""
    url = make_url(scale.urls[0])
    facts: dict[str, float] = {}
    tables = []
    # Each part closes its pools before the next one opens its own: together they are more
    # connections than a server takes by default.
    async with AsyncExitStack() as stack:
        engine = contenders.engine(stack, url)
        await prepare(engine)
        base = contenders.by_hand(engine)[BASE]
        watched = ours.watched(stack, url)
        settle = {name: each.settle for name, each in watched.items()}
        for work, title, times in (
            (SELECT, "One SELECT by key, PostgreSQL", 1),
            (INSERT, "One INSERT, PostgreSQL", 1),
            (EMPTY, "Empty unit", 10),
        ):
            cases = {BASE: base[work]} | {name: each.units[work] for name, each in watched.items()}
            results = await modes(cases, scale, times=times, settle=settle)
            tables += [compare(title, results), _added(title, results)]
            facts |= _facts(work, results)
    async with AsyncExitStack() as stack:
        engine = contenders.engine(stack, url)
        stack.push_async_callback(clean, engine)
        results = await modes(_checked(stack, url, engine), scale)
        tables.append(compare(_LIVENESS_TEXT, results))
        facts["liveness cpu"] = _between(results["50 tasks"], _OURS, _UNCHECKED, "cpu")
        facts["liveness wall"] = _between(results["sequential"], _OURS, _UNCHECKED, "wall")
    return Section(
        "Prices of observers and of safety", f"{_TEXT} {scale.note}", tables, facts=facts
    )


def _checked(stack: AsyncExitStack, url: URL, engine: AsyncEngine) -> dict[str, Case]:
    """Return one SELECT with each way to look at a connection that comes out of the pool."""
    pinging = contenders.engine(stack, url, pool_pre_ping=True)
    cases = {
        BASE: contenders.by_hand(engine)[BASE][SELECT],
        _BASE_PING: contenders.by_hand(pinging)[BASE][SELECT],
    }
    for name, database in (
        (_OURS, ours.open_database(stack, url)),
        (_UNCHECKED, unchecked(ours.open_database(stack, url))),
        (_PING, ours.open_database(stack, url, pre_ping=True)),
    ):
        cases[name] = ours.session_lane(UnitOfWorkFactory(database))[SELECT]
    return cases


def unchecked(database: Database) -> Database:
    """Return *database* without its look at a connection that comes out of the pool."""
    pool: Any = database.engine.sync_engine.pool
    pool.is_dead = lambda _driver: False
    return database


def _between(samples: dict[str, list[Sample]], mine: str, base: str, clock: Clock) -> float:
    return ratio(samples[mine], samples[base], clock)


def _added(title: str, results: Results) -> Table:
    """Return what each observer adds to the unit that nobody watches."""
    rows = []
    columns = ["observer"]
    for mode in results:
        columns += [f"{mode}: wall, of unwatched", "CPU, of unwatched", "CPU µs added"]
    for name in next(iter(results.values())):
        if name == BASE:
            continue
        row: list[str | float] = [name]
        for samples in results.values():
            row += [_between(samples, name, _NOBODY, clock) for clock in _CLOCKS]
            added = median(samples[name], "cpu") - median(samples[_NOBODY], "cpu")
            row.append(round(added, 1))
        rows.append(tuple(row))
    return Table(f"{title}: what is added", tuple(columns), rows)


def _facts(work: str, results: Results) -> dict[str, float]:
    facts: dict[str, float] = {}
    for mode, samples in results.items():
        for clock in _CLOCKS:
            for name in ours.OBSERVERS:
                key = fact(NAME, work, name, f"{mode} {clock}")
                facts[key] = _between(samples, name, BASE, clock)
                added = f"{NAME} | {work} | {name} | {mode} {clock} of unwatched"
                facts[added] = _between(samples, name, _NOBODY, clock)
    if work == EMPTY:
        facts["empty µs with metrics"] = median(results["sequential"]["metrics"], "cpu")
    return facts
