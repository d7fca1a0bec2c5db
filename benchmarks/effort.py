"""How many calls of functions a unit makes: counted, so that no load of the machine matters."""

import gc
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

from sqlalchemy.engine import make_url

from benchmarks import contenders, ours
from benchmarks.contenders import Units
from benchmarks.report import NONE, Cell, Scale, Section, Table
from benchmarks.rounds import Case
from benchmarks.statements import EMPTY, ORM_WORKS, WORKS
from benchmarks.units import on_postgres
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.outbox import Outbox
from db_manager.delivery.table.claims import Claims
from db_manager.unit.factory import UnitOfWorkFactory

NAME = "effort"

_COUNTED: Final = (*WORKS, *ORM_WORKS)
#: Nothing is sent in these.
_KEEPING: Final = f"{ours.SESSION_LANE}, delivery loaded"
#: Units before counting (statements get prepared, connections opened), and counted.
_TURNS: Final = (20, 20)
_QUICK: Final = (8, 4)
_TEXT: Final = (
    "Calls of functions in Python and in C that Python's profiler sees in the client's thread, the "
    "event loop included; where a coroutine goes on after a wait, that is one as well. Each number "
    "is the mean of {units} units, one after the other, on connections that had done the same work "
    "before. What a call costs differs, and what SQLAlchemy's new greenlets cost at the system is "
    "not in it; but a busy machine moves a number here by few calls only, those of its timers. "
    "The ORM alone is one session on one connection in one transaction: it makes, begins, commits "
    "and gives back nothing."
)


async def measure(scale: Scale) -> Section:
    """Count on PostgreSQL, with asyncpg."""
    turns = _QUICK if scale.quick else _TURNS
    async with AsyncExitStack() as stack:
        url = make_url(scale.urls[0])
        field = await on_postgres(stack, url, "asyncpg")
        field |= await contenders.orm_alone(stack, contenders.engine(stack, url))
        keeping = ours.open_database(stack, url)
        keeping.delivery = Outbox(
            Claims(keeping.engine, has_members=True), {}, (), DeliveryConfig()
        )
        field[_KEEPING] = ours.session_lane(UnitOfWorkFactory(keeping))
        rows = [
            (name, *[await _cell(units, work, turns) for work in _COUNTED])
            for name, units in field.items()
        ]
    # What one with statements calls depends on when its answers come.
    empty = {name: counts[_COUNTED.index(EMPTY)] for name, *counts in rows}
    facts = {"calls delivery": float(empty[_KEEPING]) - float(empty[ours.SESSION_LANE])}
    table = Table("Calls of one unit, PostgreSQL (asyncpg)", ("", *_COUNTED), rows)
    return Section("Calls", _TEXT.format(units=turns[1]), [table], facts=facts)


async def _cell(units: Units, work: str, turns: tuple[int, int]) -> Cell:
    return await _calls(units[work], *turns) if work in units else NONE


async def _calls(case: Case, warm_up: int, counted: int) -> int:
    for _ in range(warm_up):
        await case()
    with _profiling() as calls:
        for _ in range(counted):
            await case()
    return round(sum(calls) / counted)


@contextmanager
def _profiling() -> Iterator[list[int]]:
    """Give a list whose only number grows with each call of this thread."""
    calls = [0]

    def note(_frame: object, kind: str, _arg: object) -> None:
        if kind in {"call", "c_call"}:
            calls[0] += 1

    gc.disable()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        gc.enable()
