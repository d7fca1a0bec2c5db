"""What a unit crosses, counted and not timed: the network, and the border of a thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import aiosqlite
from sqlalchemy.engine import URL, make_url
from support.proxy import PostgresProxy

from benchmarks import contenders, ours
from benchmarks.prices import unchecked
from benchmarks.report import NONE, Cell, Scale, Section, Table
from benchmarks.rounds import Case
from benchmarks.statements import EMPTY, INSERT, SELECT, THREE, clean, prepare
from benchmarks.units import on_postgres, on_sqlite
from db_manager.unit.factory import UnitOfWorkFactory

NAME = "crossings"

_COUNTED: Final = (EMPTY, SELECT, INSERT, THREE)
#: Units before counting (statements get prepared, by psycopg after the fifth use), and counted.
_TURNS: Final = (20, 20)
_QUICK: Final = (8, 4)

_TEXT = (
    "Round trips were counted by a TCP proxy between client and server, thread hops by wrapping "
    "what hands work to a thread; nothing here is a time. One round trip is one burst of the "
    "client that the server answers. Each number is the mean of {units} units, one after the "
    "other, on connections that had done the same work before."
)
_NO_CHECK, _PING = "uow.session, liveness check off", "uow.session, pre_ping"


async def measure(scale: Scale) -> Section:
    """Count round trips on both drivers of PostgreSQL, and thread hops on SQLite."""
    facts: dict[str, float] = {}
    tables = []
    server = make_url(scale.urls[0])
    turns = _QUICK if scale.quick else _TURNS
    for driver in ("asyncpg", "psycopg"):
        counts = await _round_trips(server, driver, turns)
        tables.append(_table(f"Round trips, PostgreSQL ({driver})", counts))
        if driver == "asyncpg":
            session = counts[ours.SESSION_LANE]
            facts["round trips | empty unit"] = session[EMPTY]
            facts["round trips | read_only session"] = counts["read_only session"][SELECT]
            facts["round trips | uow.session"] = session[INSERT]
            facts["round trips | liveness check"] = session[INSERT] - counts[_NO_CHECK][INSERT]
    counts = await _hops(turns)
    tables.append(_table("Thread hops, SQLite", counts))
    facts["thread hops | uow.session"] = counts[ours.SESSION_LANE][INSERT]
    text = _TEXT.format(units=turns[1])
    return Section("Round trips and thread hops", text, tables, facts=facts)


Counts = dict[str, dict[str, float]]
Turns = tuple[int, int]


def _table(title: str, counts: Counts) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *(_whole(units[work]) if work in units else NONE for work in _COUNTED))
        for name, units in counts.items()
    ]
    return Table(title, ("", *_COUNTED), rows)


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


async def _count(
    units: contenders.Units, count: Callable[[], int], turns: Turns
) -> dict[str, float]:
    return {work: await _mean(units[work], count, turns) for work in _COUNTED if work in units}


async def _mean(case: Case, count: Callable[[], int], turns: Turns) -> float:
    warm_up, counted = turns
    for _ in range(warm_up):
        await case()
    before = count()
    for _ in range(counted):
        await case()
    return (count() - before) / counted


async def _round_trips(server: URL, driver: str, turns: Turns) -> Counts:
    async with AsyncExitStack() as stack:
        direct = contenders.engine(stack, server)
        await prepare(direct)
        stack.push_async_callback(clean, direct)
        host, port = server.host or "127.0.0.1", server.port or 5432
        proxy = await stack.enter_async_context(PostgresProxy(host, port))
        # Its engines are closed before the proxy is.
        inner = await stack.enter_async_context(AsyncExitStack())
        url = proxy.url(server.set(drivername=f"postgresql+{driver}"))
        field = await on_postgres(inner, url, driver)
        pinging = contenders.engine(inner, url, pool_pre_ping=True)
        name = f"{contenders.BASE}, pool_pre_ping"
        field[name] = contenders.by_hand(pinging)[contenders.BASE]
        for name, database in (
            (_NO_CHECK, unchecked(ours.open_database(inner, url))),
            (_PING, ours.open_database(inner, url, pre_ping=True)),
        ):
            field[name] = ours.session_lane(UnitOfWorkFactory(database))
        return {
            name: await _count(units, lambda: proxy.round_trips, turns)
            for name, units in field.items()
        }


async def _hops(turns: Turns) -> Counts:
    async with AsyncExitStack() as stack:
        field = await on_sqlite(stack)
        with _counting() as count:
            return {name: await _count(units, count, turns) for name, units in field.items()}


@contextmanager
def _counting() -> Iterator[Callable[[], int]]:
    """Count what is handed to aiosqlite's threads and to executors."""
    hops = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def count_and_call(*args: Any, **kwargs: Any) -> Any:
            nonlocal hops
            hops += 1
            return method(*args, **kwargs)

        return count_and_call

    with (
        mock.patch.object(aiosqlite.Connection, "_execute", counted(aiosqlite.Connection._execute)),  # noqa: SLF001 -- the one door to its thread
        mock.patch.object(ThreadPoolExecutor, "submit", counted(ThreadPoolExecutor.submit)),
    ):
        yield lambda: hops
