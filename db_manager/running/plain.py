"""The plain runner: SQLAlchemy's `greenlet_spawn` for each call, a task for the end of a unit.

That task is shielded from cancellation, within a deadline.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

from sqlalchemy.util import greenlet_spawn

from db_manager.running.port import Ending
from lifecycle.tasks import leave_behind

T = TypeVar("T")

#: Seconds from the first cancellation to `give_up` and the second one. After the first,
#: SQLAlchemy takes up to 2 s to close the connection.
GRACE: Final = 2.5
#: Seconds from the second cancellation until a task that ignores it is abandoned.
LAST: Final = 1.0


class Plain:
    """The reference implementation of a runner, without optimisations."""

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *function* in a new greenlet."""
        return await greenlet_spawn(function, *args, **kwargs)

    async def finish(self, ending: Ending, patience: float) -> asyncio.CancelledError | None:
        """Run the end in a separate task, and wait for that task."""
        begun = False

        async def alone() -> None:
            nonlocal begun
            begun = True
            await self.run(ending.finish)

        interrupted = await shield(alone(), patience, expire=ending.expire, give_up=ending.give_up)
        if not begun:  # the loop is closing: the task was cancelled before it started
            await self.run(ending.finish)
        return interrupted


async def shield(
    coroutine: Coroutine[Any, Any, object],
    deadline: float,
    *,
    expire: Callable[[], None] = lambda: None,
    give_up: Callable[[], None] = lambda: None,
    cancelled: bool = False,
) -> asyncio.CancelledError | None:
    """Run *coroutine* in a separate task and wait for it, even if the calling task is cancelled.

    A coroutine that ignores every cancellation is abandoned 3.5 seconds after the first one; then
    `is_left` returns True.

    Args:
        coroutine: Work that must be completed. It handles its own errors.
        deadline: Seconds until it is cancelled.
        expire: Called just before that; must not raise.
        give_up: Called if it still runs 2.5 seconds after that; must not raise.
        cancelled: The deadline has passed and the work was cancelled already: only the 2.5
            seconds remain.

    Returns:
        The cancellation that arrived meanwhile, to be raised once the outcome is known.
    """
    shielded = _Shielded(coroutine, expire, give_up)
    if cancelled:
        shielded.give_up_in(GRACE)
    else:
        shielded.cancel_in(deadline)
    interrupted = await shielded.wait()
    if shielded.task.done():
        coroutine.close()
    return interrupted


class _Shielded:
    """A coroutine in a separate task, cancelled at a deadline, cancelled again, then abandoned.

    Args:
        coroutine: The coroutine.
        expire: Called before the first cancellation.
        give_up: Called before the second cancellation.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, object],
        expire: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._expire = expire
        self._give_up = give_up
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._left = False
        self._timer: asyncio.TimerHandle
        self.task = self._loop.create_task(self._work())
        self.task.add_done_callback(self._wake)  # it may be cancelled before it starts

    async def _work(self) -> None:
        try:
            await self._coroutine
        finally:
            self._wake()

    def _wake(self, _task: object = None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> asyncio.CancelledError | None:
        """Wait until it ends or is abandoned; return the cancellation that arrived meanwhile."""
        interrupted = None
        while not (self.task.done() or self._left):
            try:
                await self._ended  # half the cost of asyncio.shield
            except asyncio.CancelledError as error:
                interrupted = error
                self._ended = self._loop.create_future()
        self._timer.cancel()
        return interrupted

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        # In an empty context: a timer keeps its context alive, even after it is cancelled.
        self._timer = self._loop.call_later(seconds, step, context=Context())

    def cancel_in(self, seconds: float) -> None:
        """Cancel it in *seconds*, and give it time to clean up."""
        self._later(seconds, self._cancel)

    def give_up_in(self, seconds: float) -> None:
        """Call `give_up` and cancel it again in *seconds*."""
        self._later(seconds, self._cancel_again)

    def _cancel(self) -> None:
        self._expire()
        self.task.cancel()
        self.give_up_in(GRACE)

    def _cancel_again(self) -> None:
        self._give_up()
        self.task.cancel()
        self._later(LAST, self._leave)

    def _leave(self) -> None:
        self._left = True
        leave_behind(self.task)
        self._wake()


def is_left(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Return True if `shield` has abandoned *coroutine* and it still runs."""
    return inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED
