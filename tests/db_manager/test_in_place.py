"""Waiting in place: a cancellation that came is kept, and raised by nobody too early."""

import asyncio
from collections.abc import Awaitable

import pytest

from db_manager.running.fast.in_place import InPlace


async def answer(future: "asyncio.Future[str]") -> str:
    """Wait for a turn of the loop, then for *future*, twice."""
    await asyncio.sleep(0)
    first = await future
    return first + await future


async def turn() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def listen(here: InPlace, awaited: Awaitable[str], log: list[object]) -> None:
    """Wait, and log what came of it."""
    try:
        log.append(await here.wait(awaited))
    except BaseException as error:
        log.append(type(error))
        raise


async def test_the_answer_is_heard_in_place() -> None:
    """The result is the coroutine's own; nothing was cancelled."""
    future = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()
    task = asyncio.create_task(listen(here, answer(future), log))
    await turn()
    future.set_result("yes")
    await task
    assert (log, here.interrupted) == (["yesyes"], None)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("when", ["before", "while"])
async def test_a_cancellation_waits_for_the_answer(when: str, times: int) -> None:
    """Cancelled before it waits or while it does, the task hears its answer and keeps the rest."""
    future = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()

    async def work() -> None:
        if when == "before":
            cancel()
        await listen(here, answer(future), log)

    def cancel() -> None:
        for _ in range(times):
            task.cancel("stop")

    task = asyncio.create_task(work())
    await turn()
    if when == "while":
        cancel()
        await turn()
    assert not future.cancelled()
    future.set_result("yes")
    await task
    assert log == ["yesyes"]
    assert isinstance(here.interrupted, asyncio.CancelledError)
    assert here.interrupted.args == ("stop",)
    assert task.cancelling() == times


async def test_an_error_reaches_the_coroutine() -> None:
    """What the future fails with is raised where the coroutine waits."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()
    task = asyncio.create_task(listen(here, answer(future), log))
    await turn()
    future.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await task
    assert here.interrupted is None


async def test_when_time_is_over_the_wait_ends() -> None:
    """The deadline cancels what is waited for: that is no cancellation of the task."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()
    task = asyncio.create_task(listen(here, answer(future), log))
    await turn()
    here.expire()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == [asyncio.CancelledError]
    assert future.cancelled()
    assert here.interrupted is None


async def test_after_the_deadline_nothing_is_waited_for_any_more() -> None:
    """A wait that begins after the deadline is over at once."""
    here, log = InPlace(), list[object]()
    here.expire()
    with pytest.raises(asyncio.CancelledError):
        await listen(here, answer(asyncio.get_running_loop().create_future()), log)


async def test_a_task_that_is_thrown_away_ends_the_coroutine() -> None:
    """Closing what waits closes the coroutine that it drives."""
    ended: list[str] = []

    async def cleaning() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("closed")
        return "never"

    waiting = InPlace().wait(cleaning())
    next(iter(waiting))
    waiting.close()
    assert ended == ["closed"]


async def test_plain_futures_are_heard_as_well() -> None:
    """What waits may be a future, as SQLAlchemy hands over some; it is held no less."""
    future = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()
    task = asyncio.create_task(listen(here, future, log))
    await turn()
    task.cancel("stop")
    await turn()
    assert not task.done()
    future.set_result("yes")
    await task
    assert log == ["yes"]
    assert isinstance(here.interrupted, asyncio.CancelledError)
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await InPlace().wait(failed)


@pytest.mark.parametrize("commit", [True, False])
async def test_an_answer_that_comes_with_the_deadline_counts_for_commit_only(
    *, commit: bool
) -> None:
    """A statement that was answered too late ends as one that was not: nothing is sent after it."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    here, log = InPlace(), list[object]()
    here.is_commit = commit
    task = asyncio.create_task(listen(here, _once(future), log))
    await turn()
    future.set_result("yes")
    here.expire()  # before the task has heard the answer
    await asyncio.wait([task])
    assert log == (["yes"] if commit else [asyncio.CancelledError])
    assert (here.interrupted, task.cancelled()) == (None, not commit)


async def _once(future: "asyncio.Future[str]") -> str:
    return await future
