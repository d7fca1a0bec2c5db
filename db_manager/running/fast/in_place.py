"""Waits for COMMIT in the current task, and holds cancellations back until it is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import coroutine
from typing import Any


class InPlace:
    """Stands between a task and the future it waits for, and lets no cancellation through.

    Cancelling a task cancels the future that it awaits. This stands in for that future and
    refuses; the task raises its CancelledError once the real future is done. It saves the task
    and the turn of the event loop of `shield`, some 10 % of a unit (docs/performance.md).

    Only for what does not cancel its own task, as `asyncio.timeout` does: what waits for COMMIT
    in asyncpg and aiosqlite.
    """

    __slots__ = ("_asked", "_asyncio_future_blocking", "_future", "expired", "interrupted")

    def __init__(self) -> None:
        #: The cancellation that came meanwhile.
        self.interrupted: asyncio.CancelledError | None = None
        self._future: Any = None
        #: True once its time is over.
        self.expired = False
        self._asked = False

    @coroutine
    def wait(self, awaited: Awaitable[Any]) -> Generator[Any, Any, Any]:
        """Run *awaited* to its end in the running task.

        Args:
            awaited: What nobody has waited for yet: mostly a coroutine; SQLAlchemy also waits
                for plain futures, as `asyncio.shield` returns one.

        Returns:
            Its result.
        """
        steps: Any = awaited if hasattr(awaited, "send") else _steps(awaited)
        while True:
            try:
                self._future = future = steps.send(None)
            except StopIteration as end:
                return end.value
            if future is not None:  # else it only lets others run
                future._asyncio_future_blocking = False  # noqa: SLF001 -- as a task does with it
                if self.expired:
                    future.cancel()
            self._asyncio_future_blocking = True
            try:
                yield self if future is not None else None
            except asyncio.CancelledError as error:
                if self._asked or future is None:
                    self.interrupted, self._asked = error, False
            except GeneratorExit:
                steps.close()
                raise
            except BaseException:  # noqa: BLE001, S110 -- the future's: *awaited* asks it itself
                pass

    def expire(self) -> None:
        """Cancel the future that is waited for, and every later one: time is over."""
        self.expired = True
        if self._future is not None:
            self._future.cancel()

    # -- what a task needs of a future (see asyncio.isfuture) -----------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the future."""
        loop: asyncio.AbstractEventLoop = self._future.get_loop()
        return loop

    def add_done_callback(
        self, callback: Callable[..., Any], *, context: Context | None = None
    ) -> None:
        """Let the future wake the task."""
        self._future.add_done_callback(callback, context=context)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 -- the signature of a future
        """Refuse; the task raises its CancelledError when the future is done."""
        self._asked = True
        return False


async def _steps(awaited: Awaitable[Any]) -> Any:
    return await awaited
