"""Greenlets that are used again: each call has its own arguments, context and errors."""

import asyncio
import gc
import threading
import weakref
from contextvars import ContextVar

import pytest
from sqlalchemy import text
from sqlalchemy.util import await_only

from db_manager.running.fast import greenlets
from db_manager.running.fast.greenlets import Greenlets, Worker
from db_manager.unit.factory import UnitOfWorkFactory

place: ContextVar[str] = ContextVar("place")
held: ContextVar[object] = ContextVar("held")


class Thing:
    """Something that is watched."""


async def later(value: int) -> int:
    """Return *value* after a turn of the event loop."""
    await asyncio.sleep(0)
    return value


def add(first: int, second: int) -> int:
    """Wait for both and add them."""
    return await_only(later(first)) + await_only(later(second))


async def test_a_function_gets_what_it_waits_for() -> None:
    """A synchronous function waits as often as it likes, and its result comes back."""
    assert await Greenlets().run(add, 1, second=2) == 3


@pytest.mark.parametrize("error", [None, ValueError])
async def test_a_call_that_begins_inside_of_another_goes_on_outside(
    error: type[Exception] | None,
) -> None:
    """A listener may start an eager task: its wait is over when the listener's call is, too."""

    async def waits() -> int:
        if error is not None:
            raise error
        return await later(1)

    def function() -> int:
        return await_only(waits()) + await_only(later(2))

    inner, outer = Worker(), Worker()
    awaited = outer.begin(inner.begin, (function,))
    assert inner.busy
    assert not outer.busy
    if error is None:
        assert await inner.finish(awaited) == 3
    else:
        with pytest.raises(error):
            await inner.finish(awaited)


async def test_a_greenlet_is_used_again() -> None:
    """The next call runs in the greenlet of the last one; a call beside it gets another."""
    pool = Greenlets()
    first, second = pool.take(), pool.take()
    pool.give_back(first)
    assert pool.take() is first
    assert second is not first


async def test_many_at_once_do_not_mix() -> None:
    """Calls that wait at the same time get their own results."""
    pool = Greenlets()
    results = await asyncio.gather(*(pool.run(add, n, second=n) for n in range(200)))
    assert results == [2 * n for n in range(200)]


async def test_an_error_reaches_the_caller_and_ends_the_greenlet() -> None:
    """What the function raises is raised; the greenlet is not kept, and the next call works."""
    pool = Greenlets()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: await_only(later(1)) / 0)
    assert await pool.run(add, 1, second=1) == 2


async def test_an_error_of_the_wait_reaches_the_function() -> None:
    """A cancellation while the function waits is raised inside of it."""
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    def work() -> str:
        try:
            await_only(endless())
        except asyncio.CancelledError:
            return "cancelled inside"
        return "never"

    task = asyncio.create_task(Greenlets().run(work))
    await begun.wait()
    task.cancel()
    assert await task == "cancelled inside"


async def test_each_call_sees_the_context_of_its_caller() -> None:
    """Context variables are those of the task that calls, not of the one that called before."""
    pool = Greenlets()

    async def call(name: str) -> str:
        place.set(name)
        return await pool.run(lambda: (await_only(later(0)), place.get())[1])

    assert [await asyncio.create_task(call(name)) for name in ("one", "two")] == ["one", "two"]


async def test_a_resting_greenlet_keeps_nothing_alive() -> None:
    """Arguments and result of a call are free as soon as the caller drops them."""
    pool = Greenlets()
    thing = Thing()
    watched = weakref.ref(thing)
    await pool.run(lambda it: it, thing)
    del thing
    assert watched() is None


async def test_a_resting_greenlet_keeps_no_error_alive() -> None:
    """What a call handled inside is free, with its traceback, when the call is over."""
    watched: list[weakref.ref[Thing]] = []

    def work() -> None:
        thing = Thing()
        watched.append(weakref.ref(thing))
        try:
            await_only(fail())
        except ZeroDivisionError:
            await_only(later(0))

    async def fail() -> None:
        raise ZeroDivisionError

    pool = Greenlets()
    await pool.run(work)
    gc.collect()
    assert watched[0]() is None
    assert pool._idle  # it rests


@pytest.mark.parametrize("waits", [False, True])
async def test_a_resting_greenlet_keeps_no_context_alive(waits: bool) -> None:
    """Context variables of a task that ended are free, though its greenlet rests."""
    pool = Greenlets()

    async def call() -> weakref.ref[Thing]:
        held.set(thing := Thing())
        await (pool.run(add, 1, second=2) if waits else pool.run(int))
        return weakref.ref(thing)

    watched = await asyncio.create_task(call())
    await asyncio.sleep(0)  # the loop lets go of the task
    gc.collect()
    assert watched() is None
    assert pool._idle


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[Worker]":
    """The greenlets that were made since and are there."""
    known: weakref.WeakSet[Worker] = weakref.WeakSet()

    def make() -> Worker:
        known.add(worker := Worker())
        return worker

    monkeypatch.setattr(greenlets, "Worker", make)
    return known


async def test_greenlets_of_a_burst_go(made: "weakref.WeakSet[Worker]") -> None:
    """Of a thousand greenlets that are needed at once a hundred stay, and no more after others."""
    pool = Greenlets()
    for _ in range(3):
        await asyncio.gather(*(pool.run(add, n, second=n) for n in range(1000)))
        assert len(made) == 100
    del pool
    assert not made


async def test_greenlets_that_are_in_a_cycle_go(made: "weakref.WeakSet[Worker]") -> None:
    """The garbage collector frees resting greenlets with what refers to them."""

    class Owner:
        def __init__(self) -> None:
            self.greenlets, self.itself = Greenlets(), self

    owner = Owner()
    await asyncio.gather(*(owner.greenlets.run(add, n, second=n) for n in range(10)))
    assert len(made) == 10
    del owner
    gc.collect()
    assert not made


async def test_units_of_a_burst_leave_no_greenlets(
    uow_factory: UnitOfWorkFactory, made: "weakref.WeakSet[Worker]"
) -> None:
    """Units that ran at once leave a hundred greenlets at most, which hold nothing of theirs."""
    watched: list[weakref.ref[Thing]] = []

    async def work(number: int, *, hold: bool = True) -> None:
        if hold:
            held.set(thing := Thing())
            watched.append(weakref.ref(thing))
        async with uow_factory(read_only=True) as uow:
            assert await uow.session.scalar(text("SELECT 1")) == 1
            if number % 3 == 0:
                await uow.connection.execute(text("SELECT 2"))

    # A connection's transport keeps the context in which it was opened.
    await asyncio.gather(*(work(n, hold=False) for n in range(100)))
    for _ in range(2):
        await asyncio.gather(*(work(n) for n in range(300)))
        await asyncio.sleep(0)
        gc.collect()
        assert len(made) <= 100
        assert not any(reference() for reference in watched)


async def test_the_greenlet_of_a_call_that_was_abandoned_goes(
    made: "weakref.WeakSet[Worker]",
) -> None:
    """A closed call is cancelled wherever it waits, may not wait again, and leaves nothing."""
    seen: list[str] = []

    def work() -> None:
        for _ in range(3):
            try:
                await_only(asyncio.Event().wait())
            except asyncio.CancelledError:
                seen.append("cancelled")
        try:
            await_only(later(1))
        finally:
            seen.append("cleaned up")

    pool = Greenlets()
    calling = pool.run(work)
    calling.send(None)
    assert len(made) == 1
    calling.close()
    assert seen == ["cancelled"] * 3 + ["cleaned up"]
    del calling
    gc.collect()
    assert not made


async def test_an_abandoned_call_that_ends_well_is_only_abandoned() -> None:
    """A function that catches its cancellation and returns disturbs nobody."""

    def work() -> str:
        try:
            await_only(asyncio.Event().wait())
        except asyncio.CancelledError:
            return "well"
        return "never"

    worker = Worker()
    calling = worker.finish(worker.begin(work))
    calling.send(None)
    calling.close()
    assert not worker.busy
    assert worker.begin(lambda: place.get("none")) == "none"


def test_greenlets_go_with_their_loop(made: "weakref.WeakSet[Worker]") -> None:
    """When the loop is closed and nobody holds them, none stays, busy or resting."""

    async def leave_one_at_work(pool: Greenlets) -> None:
        await asyncio.gather(*(pool.run(add, n, second=n) for n in range(5)))
        task = asyncio.ensure_future(pool.run(lambda: await_only(asyncio.Event().wait())))
        await asyncio.sleep(0)
        assert not task.done()  # the end of the loop cancels it

    asyncio.run(leave_one_at_work(Greenlets()))
    gc.collect()
    assert not made


def test_greenlets_that_are_dropped_in_another_thread_go(made: "weakref.WeakSet[Worker]") -> None:
    """Those whose last reference goes elsewhere are freed at the next switch of their thread."""
    pools: list[Greenlets] = []
    ready, dropped = threading.Event(), threading.Event()

    async def use() -> None:
        pools.append(Greenlets())
        await asyncio.gather(*(pools[0].run(add, n, second=n) for n in range(10)))
        ready.set()
        await asyncio.to_thread(dropped.wait)
        await Greenlets().run(add, 1, second=1)

    thread = threading.Thread(target=asyncio.run, args=[use()])
    thread.start()
    ready.wait()
    pools.clear()
    dropped.set()
    thread.join()
    assert not made


async def test_what_was_begun_can_be_cancelled() -> None:
    """A call whose wait nobody began gets CancelledError there, and goes on to its end."""

    def work() -> str:
        try:
            await_only(later(1))
        except asyncio.CancelledError:
            await_only(later(2))
            done.append("cleaned up")
            raise
        return "never"

    done: list[str] = []
    worker = Worker()
    awaited = worker.begin(work)
    with pytest.raises(asyncio.CancelledError):
        await worker.cancel(awaited)
    assert done == ["cleaned up"]
    assert not worker.busy
