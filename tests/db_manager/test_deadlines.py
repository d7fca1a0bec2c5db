"""Deadlines in moments: in order, not early, and forgotten when they are cancelled."""

import asyncio
import gc
import weakref
from contextvars import ContextVar
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy.engine import URL

from db_manager.asyncpg_driver import CheckedConnection, connect
from db_manager.deadlines import GRAIN, Deadlines


async def test_a_deadline_is_not_early() -> None:
    """A call comes after its time, and at most a grain and a turn of the loop later."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    reached: asyncio.Future[float] = loop.create_future()
    begun = loop.time()
    deadlines.call_later(0.05, lambda: reached.set_result(loop.time()))
    assert await reached - begun >= 0.05


async def test_a_deadline_keeps_no_context_alive() -> None:
    """The timer of a moment does not hold the variables of the task that armed it."""

    class Thing:
        pass

    held: ContextVar[Thing] = ContextVar("held")
    deadlines = Deadlines(asyncio.get_running_loop())

    async def arm() -> weakref.ref[Thing]:
        held.set(thing := Thing())
        deadlines.call_later(30, print)
        return weakref.ref(thing)

    watched = await asyncio.create_task(arm())
    await asyncio.sleep(0)  # the loop lets go of the task
    gc.collect()
    assert watched() is None


async def test_deadlines_of_one_moment_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand deadlines arm as many timers of the loop as there are moments."""
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, *_, **__: timers.append(when))
    deadlines = Deadlines(loop)
    begun = loop.time()
    for _ in range(1000):
        deadlines.call_later(30, print)
    assert len(timers) <= (loop.time() - begun) / GRAIN + 2
    assert min(timers) >= begun + 30


async def test_what_is_cancelled_is_not_called() -> None:
    """Cancelled before its time, or by another call of its moment, a deadline never comes."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    called: list[str] = []
    over: asyncio.Future[None] = loop.create_future()
    first = deadlines.call_later(0, called.append, "cancelled before")
    first.cancel()
    first.cancel()

    def one_of_two(other: int) -> None:
        called.append("one")
        pair[other].cancel()

    pair = [deadlines.call_later(0, one_of_two, other) for other in (1, 0)]
    deadlines.call_later(GRAIN, over.set_result, None)
    await over
    assert called == ["one"]


async def test_one_that_raises_takes_no_other_along() -> None:
    """Every deadline of a moment is called, and what one raised is told by the loop."""
    loop = asyncio.get_running_loop()
    told: list[BaseException | None] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context.get("exception")))
    deadlines, called = Deadlines(loop), set[int]()
    over: asyncio.Future[None] = loop.create_future()

    def fail() -> None:
        raise OSError

    for number in range(10):
        deadlines.call_later(0, called.add, number)
        deadlines.call_later(0, fail)
    deadlines.call_later(2 * GRAIN, over.set_result, None)
    await over
    assert called == set(range(10))
    assert [type(error) for error in told] == [OSError] * 10


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
