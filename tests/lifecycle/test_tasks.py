"""One piece of work runs in its own task, and ends with whoever waits for it."""

import asyncio

import pytest

from lifecycle.errors import HookTimeoutError, LifecycleError
from lifecycle.tasks import (
    Interrupt,
    abandoned,
    call,
    cancellations_told,
    in_hook,
    leave_behind,
)


async def test_work_ends_with_the_task_that_waits() -> None:
    """When the waiting task is cancelled, as at the end of the loop, so is the work."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(call(work(), 30))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_error_of_late_work_is_the_cause() -> None:
    """What the work raised when it was cancelled at its deadline is not lost."""

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("broken pipe")

    with pytest.raises(HookTimeoutError, match=r"^did not end within 0\.001 s$") as caught:
        await call(work(), 0.001)
    assert isinstance(caught.value.__cause__, OSError)
    assert not caught.value.abandoned


async def test_interrupted_work_that_ended_well_keeps_its_result() -> None:
    """Work that is interrupted but comes to its end all the same has succeeded."""
    interrupt = Interrupt()

    async def work() -> str:
        interrupt.request()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return "never"

    assert await call(work(), 30, interrupt) == "done"
    with pytest.raises(asyncio.CancelledError):
        interrupt.check()


async def test_only_a_running_hook_is_a_hook() -> None:
    """A task that outlives the hook it was made in does not belong to it any more."""
    asked = asyncio.Event()

    async def later() -> bool:
        await asked.wait()
        return in_hook()

    async def work() -> asyncio.Task[bool]:
        assert in_hook()
        return asyncio.create_task(later())

    assert not in_hook()
    task = await call(work(), 30)
    asked.set()
    assert not await task


async def test_what_was_left_behind_is_told_while_it_changes() -> None:
    """Another thread may ask for the names while the loop leaves more work behind."""
    waiting = asyncio.Event()

    class Meddler(asyncio.Task[bool]):
        """Leaves more work behind when it is asked for its name."""

        def get_name(self) -> str:
            more = asyncio.create_task(waiting.wait(), name="more")
            tasks.append(more)
            leave_behind(more)
            return "meddler"

    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[bool]] = [Meddler(waiting.wait(), loop=loop) for _ in range(2)]
    for task in tuple(tasks):
        leave_behind(task)
    assert abandoned() == ["meddler", "meddler"]
    waiting.set()
    await asyncio.gather(*tasks)
    assert abandoned() == []


async def cancels_its_own() -> None:
    """End in the CancelledError of a task of one's own."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    """It says whose it is; that of a task that was cancelled before is no excuse for it."""
    told = r"^work ended in CancelledError, and nobody had cancelled it$"
    with pytest.raises(LifecycleError, match=told) as caught, cancellations_told("work"):
        await cancels_its_own()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)

    begun = asyncio.Event()

    async def cancelled_before() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            with cancellations_told("work"):
                await cancels_its_own()

    waiting = asyncio.create_task(cancelled_before())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(LifecycleError, match=told):
        await waiting


async def test_a_cancellation_that_was_asked_for_stays_one() -> None:
    """Whoever cancels the running task gets the CancelledError."""
    begun = asyncio.Event()

    async def work() -> None:
        with cancellations_told("work"):
            begun.set()
            await asyncio.Event().wait()

    waiting = asyncio.create_task(work())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
