"""Work in a thread of its own: whatever ends it, who waits for it is told."""

import asyncio
import threading

import pytest

from lifecycle.threads import in_thread, to_its_end


async def test_an_error_is_raised_where_the_answer_is_awaited() -> None:
    """The result comes back as it is, and so does an error."""
    assert await in_thread(lambda: 7, "seven") == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0, "division")


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
async def test_what_no_task_can_take_is_an_error_too(error: BaseException) -> None:
    """What would end the loop, or fits no future, comes back as the cause of a RuntimeError."""

    def end() -> None:
        raise error

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match=f"^work: ended by {type(error).__name__}") as info:
            await in_thread(end, "work")
    assert info.value.__cause__ is error


async def test_an_answer_that_nobody_waits_for_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """A wait that was cancelled is not disturbed by the end of the work."""
    go, gone = threading.Event(), asyncio.Event()
    answer = in_thread(go.wait, "work")
    answer.cancel()
    answer.add_done_callback(lambda _: gone.set())
    go.set()
    await gone.wait()
    assert await in_thread(lambda: 7, "later") == 7
    assert caplog.messages == []


async def test_a_cancellation_waits_for_the_end_of_what_must_not_go_on() -> None:
    """It is raised once the work has ended, however often it comes; so is the work's own error."""
    go, begun, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go.wait()
        ended.append(True)
        raise ValueError

    task = asyncio.create_task(to_its_end(work, "work"))
    await in_thread(begun.wait, "begun")
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    with pytest.raises(ValueError):  # noqa: PT011 -- it has no text
        await to_its_end(work, "work")
