"""Greenlets that are used again: each call has its own arguments, context and errors."""

import asyncio
import weakref
from contextvars import ContextVar

import pytest
from sqlalchemy import text
from sqlalchemy.util import await_only

from db_manager import greenlets
from db_manager.errors import TransactionAbortedError
from db_manager.factory import UnitOfWorkFactory
from db_manager.greenlets import Greenlets, Spawned, Worker

place: ContextVar[str] = ContextVar("place")


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

    class Thing:
        pass

    pool = Greenlets()
    thing = Thing()
    watched = weakref.ref(thing)
    await pool.run(lambda it: it, thing)
    del thing
    assert watched() is None


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


async def test_units_work_without_greenlets_of_ours(
    uow_factory: UnitOfWorkFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should SQLAlchemy not know our greenlets any more, units take its own, and work."""
    monkeypatch.setattr(greenlets, "_make", Spawned)
    async with uow_factory() as uow:
        await uow.session.execute(text("CREATE TABLE t (id INT)"))
        await uow.connection.execute(text("INSERT INTO t VALUES (1)"))
    with pytest.raises(TransactionAbortedError):
        async with uow_factory() as uow:
            with pytest.raises(Exception, match="nothing"):
                await uow.session.execute(text("SELECT * FROM nothing"))
    async with uow_factory() as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 1


def test_sqlalchemy_knows_our_greenlets(monkeypatch: pytest.MonkeyPatch) -> None:
    """`await_` of SQLAlchemy takes a greenlet with its mark, and no other."""
    assert greenlets.supported()
    monkeypatch.delattr(Worker, "__sqlalchemy_greenlet_provider__")
    assert not greenlets.supported()
