"""Shields the end of a unit from cancellation, within a deadline."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from lifecycle.tasks import leave_behind

#: Seconds between the polite end (a cancellation, after which SQLAlchemy closes the connection
#: for at most 2 s) and the rude one.
GRACE: Final = 2.5
#: Seconds after the rude end until what ignores that, too, is left behind.
LAST: Final = 1.0


async def shield(
    coroutine: Coroutine[Any, Any, object],
    deadline: float,
    *,
    give_up: Callable[[], None] = lambda: None,
    cancelled: bool = False,
) -> asyncio.CancelledError | None:
    """Run *coroutine* in a task of its own and wait for it, also while this task is cancelled.

    What ignores every cancellation is left behind, 3.5 seconds after the first; `is_left` tells.

    Args:
        coroutine: What must not be left half done. It handles its own errors.
        deadline: Seconds until it is cancelled.
        give_up: Called when it has not ended 2.5 seconds after that; does not raise.
        cancelled: Its time is over and it was cancelled already: it has those 2.5 seconds.

    Returns:
        The cancellation that came meanwhile, to be raised once the outcome is known.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    timer: asyncio.TimerHandle
    left = False

    async def work() -> None:
        try:
            await coroutine
        finally:
            wake()

    def wake(_task: object = None) -> None:
        if not ended.done():
            ended.set_result(None)

    def leave() -> None:
        nonlocal left
        left = True
        leave_behind(task)
        wake()

    def rudely() -> None:
        nonlocal timer
        give_up()
        task.cancel()
        timer = loop.call_later(LAST, leave, context=Context())

    def politely() -> None:
        nonlocal timer
        task.cancel()
        timer = loop.call_later(GRACE, rudely, context=Context())

    task = loop.create_task(work())
    task.add_done_callback(wake)  # it may be cancelled before it begins
    # In a context of its own: a timer keeps it to its time, also when it is cancelled.
    first, when = (rudely, GRACE) if cancelled else (politely, deadline)
    timer = loop.call_later(when, first, context=Context())
    interrupted = None
    while not (task.done() or left):
        try:
            await ended  # half the price of asyncio.shield
        except asyncio.CancelledError as error:
            interrupted = error
            ended = loop.create_future()
    timer.cancel()
    if task.done():
        coroutine.close()
    return interrupted


def is_left(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Return whether `shield` has left *coroutine* behind, and it runs still."""
    return inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED
