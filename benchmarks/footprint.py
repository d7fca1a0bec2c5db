"""What a bot with units takes to start, in memory and CPU, and whether it grows while it works."""

import gc
import os
import statistics
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy.engine import make_url

from benchmarks import contenders, ours
from benchmarks.report import Cell, Scale, Section, Table
from benchmarks.rounds import Case, turn
from benchmarks.statements import ADD, EMPTY, SELECT, clean, prepare

NAME = "footprint"

#: Units of each kind, the tasks of one burst, the bursts, and how many of these are the warm-up.
_UNITS: Final = {EMPTY: 1_000_000, SELECT: 20_000, ADD: 20_000}
_TASKS, _BURSTS, _WARM_UP = 1_000, 12, 4
_STARTS: Final = 5
_MIB: Final = 2**20

_PLAIN: Final = "aiogram and SQLAlchemy"
_OURS: Final = "lifecycle attached, db_manager loaded"
_BEGIN: Final = """
import asyncio, sys, time
from pathlib import Path
from aiogram import Bot, Dispatcher
from sqlalchemy import text
async def main(url):
    bot, dispatcher = Bot("42:TEST"), Dispatcher()
"""
_END: Final = """
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    print(resident, time.process_time())
asyncio.run(main(sys.argv[1]))
"""
#: Programs that start a bot, read from its database once, and say what that took.
_PROGRAMS: Final = {
    _PLAIN: f"""{_BEGIN}
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    maker = async_sessionmaker(create_async_engine(url))
    await dispatcher.emit_startup(bot=bot)
    async with maker.begin() as session:
        await session.execute(text("SELECT 1"))
{_END}""",
    _OURS: f"""{_BEGIN}
    from db_manager.plugin import DatabasePlugin
    from lifecycle import Application
    from lifecycle.bot import attach
    app = Application([DatabasePlugin], config={{"database": {{"url": url}}}})
    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    async with app.services["db_manager:uow_factory"]() as uow:
        await uow.session.execute(text("SELECT 1"))
{_END}""",
}
_TEXT: Final = (
    "Start: a process that imports what it needs, starts a bot and reads once from a SQLite file, "
    f"with our settings and without us; each is the median of {_STARTS} starts, in which both took "
    "turns. Growth: resident memory of one process that opens one unit after another on "
    f"PostgreSQL, and then {_BURSTS} bursts of {_TASKS:,} tasks with a unit each. A third of "
    "each is the warm-up; what is added after it is growth, give or take what the allocator keeps."
)


class _Start(NamedTuple):
    """What a start took.

    Args:
        memory: Resident, in bytes.
        cpu: Seconds.
    """

    memory: float
    cpu: float


async def measure(scale: Scale) -> Section:
    """Measure starts, then growth."""
    # A start takes seconds; the first ones compile what they import, which is not looked at.
    starts, facts = _starts(
        scale.python, 1 if scale.quick else _STARTS, warm_up=int(not scale.quick)
    )
    growth = await _grow(scale)
    facts["growth units"] = max(growth[work] for work in _UNITS)
    facts["growth bursts"] = growth["bursts"]
    rows: list[tuple[Cell, ...]] = [(name, round(value, 2)) for name, value in growth.items()]
    tables = [starts, Table("Growth, MiB of resident memory", ("", "MiB"), rows)]
    return Section("Start and memory", f"{_TEXT} {scale.note}", tables, facts=facts)


def _starts(python: tuple[str, ...], rounds: int, warm_up: int) -> tuple[Table, dict[str, float]]:
    found: dict[str, list[_Start]] = {name: [] for name in _PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(warm_up + rounds):
            for name, program in _PROGRAMS.items():
                found[name].append(_start(python, program, Path(folder) / "bot.sqlite3"))
    medians = {
        name: _Start(*map(statistics.median, zip(*starts[warm_up:], strict=True)))
        for name, starts in found.items()
    }
    plain, mine = medians[_PLAIN], medians[_OURS]
    facts = {
        "start MiB": (mine.memory - plain.memory) / _MIB,
        "start ratio": mine.cpu / plain.cpu,
    }
    rows = [
        (name, round(start.memory / _MIB, 1), round(start.cpu * 1e3))
        for name, start in medians.items()
    ]
    return Table("Start of a bot", ("", "resident MiB", "CPU ms"), rows), facts


def _start(python: tuple[str, ...], program: str, path: Path) -> _Start:
    said = subprocess.run(  # noqa: S603 -- this very program
        [*python, "-c", program, f"sqlite+aiosqlite:///{path}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=path.parent,
    ).stdout.split()
    return _Start(float(said[0]) * os.sysconf("SC_PAGE_SIZE"), float(said[1]))


async def _grow(scale: Scale) -> dict[str, float]:
    """Return what is added after the warm-up, in MiB, by what was done."""
    part = 100 if scale.quick else 1
    async with AsyncExitStack() as stack:
        url = make_url(scale.urls[0])
        engine = contenders.engine(stack, url)
        await prepare(engine)
        stack.push_async_callback(clean, engine)
        units = ours.lanes(ours.open_database(stack, url))[ours.SESSION_LANE]

        found = {}
        for work, count in _UNITS.items():
            found[work] = await _added(units[work], count // part // _BURSTS, 1)
        tasks = _TASKS // min(part, 5)
        found["bursts"] = await _added(units[SELECT], tasks, tasks)
    return found


async def _added(case: Case, units: int, tasks: int) -> float:
    sizes = []
    for _ in range(_BURSTS):
        await turn(case, units, tasks)
        gc.collect()
        sizes.append(_resident())
    return (sizes[-1] - sizes[_WARM_UP - 1]) / _MIB


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
