"""What each promise of a unit costs and each short cut saves: switched off, one at a time."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import AsyncAdaptedQueuePool

from benchmarks import contenders, ours
from benchmarks.drivers import DRIVER_PARTS
from benchmarks.ours import CORE_LANE, DRIVER_LANE, SESSION_LANE
from benchmarks.prices import unchecked
from benchmarks.report import Scale, Section, Table
from benchmarks.rounds import Case, Clock, Sample, median, ratio
from benchmarks.statements import CORE_PARTS, SELECT, clean, prepare
from benchmarks.units import modes
from db_manager.database.database import Database
from db_manager.lanes.session import SyncUnitSession, UnitSession
from db_manager.running.fast.runner import Fast
from db_manager.running.fast.timers import CoarseTimers
from db_manager.running.plain import Plain
from db_manager.running.port import Ending, Runner
from db_manager.unit.uow import UnitOfWork

NAME = "levers"

AS_IT_IS: Final = "as it is"
_FLOOR: Final = "asyncpg, no reset (floor)"
_TEXT = (
    "One SELECT by key on PostgreSQL, each lane as it is and with one thing changed. Below 1 is "
    "what a promise costs: without it a cancellation can cut a COMMIT in two, a dead connection "
    "is found by its first statement, or an answer that never comes is waited for for ever. Above "
    "1 is what a short cut saves. The floor is asyncpg's own pool and transaction without reset."
)


class _Hearing(Fast):
    """Waits for COMMIT as for anything else: a cancellation cuts it."""

    async def finish(self, ending: Ending, patience: float) -> None:
        timer = CoarseTimers.current().call_later(patience, ending.give_up)
        await self.run(ending.finish)
        timer.cancel()


class _LongSyncSession(SyncUnitSession):
    """Passes nothing on."""

    def passes_on(self, _statement: object) -> bool:
        return False


class _LongSession(UnitSession):
    """Begins for every statement."""

    sync_session_class = _LongSyncSession


class _LongUnit(UnitOfWork):
    """A unit whose session takes part in every statement."""

    __slots__ = ()

    @property
    def session(self) -> UnitSession:
        transaction = self.hold()
        if transaction.session is None:
            transaction.session = _LongSession(self)
        return transaction.session


def _with(make_runner: Callable[[], Runner], stack: AsyncExitStack, url: URL) -> Database:
    return ours.open_database(stack, url, make_runner=make_runner)


#: The promises and the short cuts, by what a unit is without them.
VARIANTS: Final[dict[str, Callable[[AsyncExitStack, URL], Database]]] = {
    AS_IT_IS: ours.open_database,
    "COMMIT can be cancelled": partial(_with, partial(_Hearing, in_place=True)),
    "dead connections are not noticed": lambda stack, url: unchecked(
        ours.open_database(stack, url)
    ),
    "no deadline for answers": lambda stack, url: ours.open_database(
        stack, url, connect_args={"command_timeout": None}
    ),
    "COMMIT in a task of its own": partial(_with, partial(Fast, in_place=False)),
    "the plain runner: also a greenlet for each call": partial(_with, Plain),
    "SQLAlchemy's line before the pool": lambda stack, url: ours.open_database(
        stack, url, engine_options={"poolclass": AsyncAdaptedQueuePool}
    ),
}
_LONG: Final = "the session takes part in every statement"


async def measure(scale: Scale) -> Section:
    """Measure the three lanes with each variant."""
    url = make_url(scale.urls[0])
    tables = []
    async with AsyncExitStack() as stack:
        engine = contenders.engine(stack, url)
        await prepare(engine)
        stack.push_async_callback(clean, engine)
        floor = await contenders.asyncpg_pool(stack, url, reset=False)
        databases = {name: make(stack, url) for name, make in VARIANTS.items()}
        for lane in (SESSION_LANE, CORE_LANE, DRIVER_LANE):
            cases = {name: _unit(database, lane) for name, database in databases.items()}
            if lane == SESSION_LANE:
                cases[_LONG] = _unit(databases[AS_IT_IS], lane, _LongUnit)
            cases[_FLOOR] = floor[SELECT]
            tables.append(_table(lane, await modes(cases, scale)))
    return Section("What promises cost, and short cuts save", f"{_TEXT} {scale.note}", tables)


def _unit(database: Database, lane: str, kind: type[UnitOfWork] = UnitOfWork) -> Case:
    async def by_driver() -> None:
        async with kind(database) as uow:
            await DRIVER_PARTS["asyncpg"][SELECT](await uow.driver())

    async def by_lane() -> None:
        async with kind(database) as uow:
            await CORE_PARTS[SELECT](uow.session if lane == SESSION_LANE else uow.connection)

    return by_driver if lane == DRIVER_LANE else by_lane


def _table(lane: str, results: dict[str, dict[str, list[Sample]]]) -> Table:
    columns = [lane]
    for mode in results:
        columns += [f"{mode}: wall, of as it is", "CPU, of as it is", "CPU µs"]
    clocks: tuple[Clock, ...] = ("wall", "cpu")
    rows = []
    for name in next(iter(results.values())):
        row: list[str | float] = [name]
        for samples in results.values():
            row += [ratio(samples[name], samples[AS_IT_IS], clock) for clock in clocks]
            row.append(round(median(samples[name], "cpu"), 1))
        rows.append(tuple(row))
    return Table(f"One SELECT by key through {lane}", tuple(columns), rows)
