"""Ten thousand units that wait for twenty connections, and the memory of one that is open."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from operator import attrgetter
from typing import Any, Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker

from benchmarks import contenders, ours
from benchmarks.contenders import BASE
from benchmarks.report import Cell, Scale, Section, Table
from benchmarks.statements import clean, nothing, prepare, select
from db_manager.unit.factory import UnitOfWorkFactory

NAME = "waiting"

UNITS: Final = 10_000
POOL: Final = 20
#: Units open at once for the memory of one, and the connections that they may hold.
OPEN: Final = 200
HELD: Final = 50

Begin = Callable[[], AbstractAsyncContextManager[Any]]
Lane = Callable[[Any], Any]

_TEXT = (
    f"Crowd: all tasks open a unit at the same time, on a pool of {POOL} connections; the "
    "first ones hold theirs until all others wait, then everybody reads one row and ends. Memory "
    "is what tracemalloc counts while all are there, tasks included; the time runs from the moment "
    "they may go on, without tracemalloc. One unit: bytes that an open one adds, without the task "
    "that holds it and without the connection, which was open before."
)


async def measure(scale: Scale) -> Section:
    """Measure the crowd, then one unit."""
    url = make_url(scale.urls[0])
    gc.collect()
    gc.freeze()  # what was imported is not looked at again
    async with AsyncExitStack() as stack:
        keeper = contenders.engine(stack, url, pool_size=1)
        await prepare(keeper)
        stack.push_async_callback(clean, keeper)
        # Each part closes its pools before the next one opens its own.
        tables = [await _crowds(url, 300 if scale.quick else UNITS), await _one(url)]
    return Section("Waiting, and memory", f"{_TEXT} {scale.note}", tables)


async def _crowds(url: URL, count: int) -> Table:
    """Return how *count* units at once go through a small pool, in each way."""
    async with AsyncExitStack() as stack:
        engine = contenders.engine(stack, url, pool_size=POOL, pool_timeout=600)
        patient: dict[str, Any] = {"pool_size": POOL, "pool_timeout": 600.0}
        units = UnitOfWorkFactory(ours.open_database(stack, url, **patient))
        maker = async_sessionmaker(engine, expire_on_commit=False)
        rows: list[tuple[Cell, ...]] = [
            (name, *await _crowd(begin, lane, count))
            for name, begin, lane in (
                (BASE, maker.begin, _itself),
                (ours.SESSION_LANE, units, attrgetter("session")),
                (ours.CORE_LANE, units, attrgetter("connection")),
            )
        ]
    columns = ("", "ended", "failed", "total s", "units/s", "MB while all wait", "kB each")
    return Table(f"{count:,} units on a pool of {POOL}", columns, rows)


def _itself(given: Any) -> Any:
    return given


async def _crowd(begin: Begin, lane: Lane, count: int) -> tuple[int, int, float, int, float, float]:
    """Return how many ended and failed, seconds, units per second, MB and kB for each."""
    go = asyncio.Event()
    begun = failed = 0

    async def unit() -> None:
        nonlocal begun, failed
        begun += 1
        try:
            async with begin() as given:
                await select(lane(given))
                await go.wait()
        except Exception:  # noqa: BLE001 -- whatever it is, it is counted
            failed += 1

    warm = [asyncio.create_task(unit()) for _ in range(POOL)]
    await _settled(lambda: begun == POOL)
    go.set()
    await asyncio.gather(*warm)
    go.clear()
    begun = 0
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(unit()) for _ in range(count)]
    await _settled(lambda: begun == count)
    memory = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    began = time.perf_counter()
    go.set()
    await asyncio.gather(*tasks)
    total = time.perf_counter() - began
    return count - failed, failed, total, round(count / total), memory / 1e6, memory / count / 1e3


async def _settled(reached: Callable[[], bool]) -> None:
    """Wait until *reached*, and then until the loop has nothing more to do for a while."""
    while not reached():  # noqa: ASYNC110 -- an event would be set before the last one waits
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)


async def _one(url: URL) -> Table:
    """Return the bytes of one open unit: entered, and after its first statement."""
    rows: list[tuple[Cell, ...]] = []
    async with AsyncExitStack() as stack:
        engine = contenders.engine(stack, url, pool_size=HELD)
        maker = async_sessionmaker(engine, expire_on_commit=False)
        rows.append(await _row(BASE, maker.begin, _itself))
        # It holds a connection from its first moment.
        rows.append(await _row("engine.begin()", engine.begin, _itself, count=HELD))
    async with AsyncExitStack() as stack:
        units = UnitOfWorkFactory(ours.open_database(stack, url, pool_size=HELD))
        rows.append(await _row(ours.SESSION_LANE, units, attrgetter("session")))
        rows.append(await _row(ours.CORE_LANE, units, attrgetter("connection")))
    columns = ("bytes of one open unit", "entered", "after one SELECT")
    return Table("Memory of one open unit", columns, rows)


async def _row(name: str, begin: Begin, lane: Lane, count: int = OPEN) -> tuple[Cell, ...]:
    """Return the row of one way; *count* of its units are open at once before they do anything."""
    used = partial(_bytes, begin, _reading(lane), HELD)
    await used()  # opens the connections
    entered = await _bytes(begin, nothing, count)
    return name, round(entered), round(await used())


def _reading(lane: Lane) -> Lane:
    return lambda given: select(lane(given))


async def _bytes(begin: Begin, part: Callable[[Any], Any], count: int) -> float:
    """Return what each of *count* open units adds to a task that waits."""
    go = asyncio.Event()
    there = 0

    async def bare() -> None:
        nonlocal there
        there += 1
        await go.wait()

    async def unit() -> None:
        async with begin() as given:
            await part(given)
            await bare()

    taken = []
    for what in (bare, unit):
        go.clear()
        there = 0
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(what()) for _ in range(count)]
        while there < count:  # noqa: ASYNC110 -- it says when the last one is there
            await asyncio.sleep(0)
        gc.collect()
        taken.append((tracemalloc.get_traced_memory()[0] - before) / count)
        tracemalloc.stop()
        go.set()
        await asyncio.gather(*tasks)
    return taken[1] - taken[0]
