"""Timers in moments: in order, not early, and forgotten when they are cancelled."""

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager.database.database import Database
from db_manager.dialects.postgresql.asyncpg_connection import CheckedConnection, connect
from db_manager.running.fast.timers import GRAIN, CoarseTimers, Timer
from db_manager.unit.uow import UnitOfWork


async def test_a_timer_is_not_early() -> None:
    """A call comes after its time, and at most a grain and a turn of the loop later."""
    loop = asyncio.get_running_loop()
    timers = CoarseTimers()
    reached: asyncio.Future[float] = loop.create_future()
    begun = loop.time()
    timers.call_later(0.05, lambda: reached.set_result(loop.time()))
    assert await reached - begun >= 0.05


async def test_a_timer_keeps_no_context_alive() -> None:
    """The timer of a moment does not hold the variables of the task that armed it."""

    class Thing:
        pass

    held: ContextVar[Thing] = ContextVar("held")
    timers = CoarseTimers()

    async def arm() -> weakref.ref[Thing]:
        held.set(thing := Thing())
        timers.call_later(30, print)
        return weakref.ref(thing)

    watched = await asyncio.create_task(arm())
    await asyncio.sleep(0)  # the loop lets go of the task
    gc.collect()
    assert watched() is None


async def test_a_moment_in_which_nothing_is_due_any_more_is_small() -> None:
    """After a burst, the memory of its cancelled timers is not kept until they would have fired."""
    timers = CoarseTimers()
    burst = [timers.call_later(30, print) for _ in range(1000)]
    for timer in burst:
        timer.cancel()
    assert {sys.getsizeof(timer.moment) for timer in burst} == {sys.getsizeof(set())}


async def test_timers_of_one_moment_share_one_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand timers arm as many of the loop as there are moments."""
    loop = asyncio.get_running_loop()
    armed: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, *_, **__: armed.append(when))
    timers = CoarseTimers()
    begun = loop.time()
    for _ in range(1000):
        timers.call_later(30, print)
    assert len(armed) <= (loop.time() - begun) / GRAIN + 2
    assert min(armed) >= begun + 30


async def test_what_is_cancelled_is_not_called() -> None:
    """Cancelled before its time, or by another call of its moment, a timer never comes."""
    loop = asyncio.get_running_loop()
    timers = CoarseTimers()
    called: list[str] = []
    over: asyncio.Future[None] = loop.create_future()
    first = timers.call_later(0, called.append, "cancelled before")
    first.cancel()
    first.cancel()

    def one_of_two(other: int) -> None:
        called.append("one")
        pair[other].cancel()

    pair = [timers.call_later(0, one_of_two, other) for other in (1, 0)]
    timers.call_later(GRAIN, over.set_result, None)
    await over
    assert called == ["one"]


async def test_a_call_that_fails_takes_no_other_with_it() -> None:
    """What a call raises goes to the exception handler; the others of its moment are made."""
    loop, timers = asyncio.get_running_loop(), CoarseTimers()
    told: list[BaseException | None] = []
    called: list[str] = []
    over: asyncio.Future[None] = loop.create_future()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    for work in (lambda: 1 / 0, partial(called.append, "one"), lambda: 1 / 0):
        timers.call_later(0, work)
    timers.call_later(GRAIN, over.set_result, None)
    await over
    loop.set_exception_handler(before)
    assert [type(error) for error in told] == [ZeroDivisionError] * 2
    assert called == ["one"]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_connections_have_no_timers_of_their_own(
    postgres_database: URL,
    open_database: Callable[..., Database],
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
) -> None:
    """Units, their drivers and the line of the pool share the timers of their event loop."""
    used: set[CoarseTimers] = set()
    call_later = CoarseTimers.call_later

    def note(self: CoarseTimers, *args: Any) -> Timer:
        used.add(self)
        return call_later(self, *args)

    monkeypatch.setattr(CoarseTimers, "call_later", note)
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    database = open_database(url, pool_size=2)

    async def work() -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT 1"))

    await asyncio.gather(*(work() for _ in range(5)))
    assert used == {CoarseTimers.current()}


def test_timers_keep_no_loop_alive() -> None:
    """A loop that is closed is free, with the timers that were cancelled in it."""

    async def use() -> weakref.ref[asyncio.AbstractEventLoop]:
        timers = CoarseTimers.current()
        timers.call_later(30, print).cancel()
        assert timers is CoarseTimers.current()
        return weakref.ref(asyncio.get_running_loop())

    watched = asyncio.run(use())
    gc.collect()
    assert watched() is None


async def test_an_answer_that_does_not_come_is_given_up(postgres_database: URL) -> None:
    """A statement on asyncpg still ends after `command_timeout`, and its connection serves on."""
    url = postgres_database.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await connect(url, command_timeout=0.2)
    assert isinstance(connection, CheckedConnection)
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT pg_sleep(60)")
    assert await connection.fetchval("SELECT 1", timeout=60) == 1
    await connection.close()


async def test_asyncpg_asks_its_loop_for_timers(postgres_database: URL) -> None:
    """The protocol of asyncpg takes its timers from the loop that it is given."""
    url = postgres_database.set(drivername="postgresql").render_as_string(hide_password=False)
    asked: list[float] = []

    class Listening:
        """The running loop, with an ear for its timers."""

        def __getattr__(self, name: str) -> Any:
            return heard if name == "call_later" else getattr(running, name)

    def heard(delay: float, *args: Any) -> Any:
        asked.append(delay)
        return running.call_later(delay, *args)

    running, loop = asyncio.get_running_loop(), cast("asyncio.AbstractEventLoop", Listening())
    connection = await asyncpg.connect(url, loop=loop, command_timeout=30)
    await connection.execute("SELECT 1")
    await connection.close()
    assert 30 in asked
