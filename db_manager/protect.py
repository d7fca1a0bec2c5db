"""Runs the end of a unit to its end, whatever happens to the task that waits for it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

#: Seconds between the polite end (a cancellation, after which SQLAlchemy closes the connection
#: for at most 2 s) and the rude one.
GRACE: Final = 2.5


async def protect(
    coroutine: Coroutine[Any, Any, object],
    deadline: float,
    *,
    give_up: Callable[[], None] = lambda: None,
) -> asyncio.CancelledError | None:
    """Run *coroutine* in a task of its own and wait for it, also while this task is cancelled.

    Args:
        coroutine: What must not be left half done. It handles its own errors.
        deadline: Seconds until it is cancelled.
        give_up: Called when it has not ended 2.5 seconds after that.

    Returns:
        The cancellation that came meanwhile, to be raised once the outcome is known.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    timer: asyncio.TimerHandle

    def rudely() -> None:
        give_up()
        task.cancel()

    def politely() -> None:
        nonlocal timer
        task.cancel()
        timer = loop.call_later(GRACE, rudely)

    timer = loop.call_later(deadline, politely)
    interrupted = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if not task.cancelled():
                interrupted = error
    timer.cancel()
    return interrupted
