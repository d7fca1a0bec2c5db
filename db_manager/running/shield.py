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
    shielded = _Shielded(coroutine, give_up)
    if cancelled:
        shielded.rudely_in(GRACE)
    else:
        shielded.politely_in(deadline)
    interrupted = await shielded.wait()
    if shielded.task.done():
        coroutine.close()
    return interrupted


class _Shielded:
    """A coroutine in a task of its own, which the deadline ends: politely, rudely, or not at all.

    Args:
        coroutine: The coroutine.
        give_up: Called before the rude end.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object], give_up: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._give_up = give_up
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._left = False
        self._timer: asyncio.TimerHandle
        self.task = self._loop.create_task(self._work())
        self.task.add_done_callback(self._wake)  # it may be cancelled before it begins

    async def _work(self) -> None:
        try:
            await self._coroutine
        finally:
            self._wake()

    def _wake(self, _task: object = None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> asyncio.CancelledError | None:
        """Wait until it has ended or was left; return the cancellation that came meanwhile."""
        interrupted = None
        while not (self.task.done() or self._left):
            try:
                await self._ended  # half the price of asyncio.shield
            except asyncio.CancelledError as error:
                interrupted = error
                self._ended = self._loop.create_future()
        self._timer.cancel()
        return interrupted

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        # In a context of its own: a timer keeps its context alive, also when it is cancelled.
        self._timer = self._loop.call_later(seconds, step, context=Context())

    def politely_in(self, seconds: float) -> None:
        """Cancel it in *seconds*, and give it time for that."""
        self._later(seconds, self._politely)

    def rudely_in(self, seconds: float) -> None:
        """Give up and cancel it again in *seconds*."""
        self._later(seconds, self._rudely)

    def _politely(self) -> None:
        self.task.cancel()
        self.rudely_in(GRACE)

    def _rudely(self) -> None:
        self._give_up()
        self.task.cancel()
        self._later(LAST, self._leave)

    def _leave(self) -> None:
        self._left = True
        leave_behind(self.task)
        self._wake()


def is_left(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Return whether `shield` has left *coroutine* behind, and it runs still."""
    return inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED
