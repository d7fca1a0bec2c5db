"""Waits for COMMIT in the current task, and holds cancellations back until it is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import coroutine
from typing import Any


class InPlace:
    """Stands between a task and the future it waits for, and lets no cancellation through.

    What a task and a future say to each other, and what this has to do with it:

    1. The task goes on with its coroutine up to a future, which comes back with a mark,
       `_asyncio_future_blocking`. Here it is this object that comes back, with the mark.
    2. The task takes the mark off and asks to be woken when the future is done. This object
       passes that on, so that the future wakes the task.
    3. Whoever cancels the task lets it cancel what it waits for. This object refuses and notes
       it; so the task goes on waiting, and will raise CancelledError when it is woken.
    4. The task is woken. It raises its CancelledError here, which is kept, or what the future
       failed with, which is dropped: the coroutine gets that from its future.
    5. The next step of the coroutine takes the result out of the future.

    It saves the task and the turn of the event loop of `shield`, some 10 % of a unit
    (docs/performance.md). Only for what does not cancel its own task, as `asyncio.timeout` does:
    what waits for COMMIT in asyncpg and aiosqlite.
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
                waits = self._step(steps)
            except StopIteration as end:
                return end.value
            try:
                yield self if waits else None
            except asyncio.CancelledError as error:
                self._hold(error)
            except GeneratorExit:
                steps.close()
                raise
            except BaseException:  # noqa: BLE001, S110 -- the future's: *awaited* asks it itself
                pass

    def _step(self, steps: Any) -> bool:
        """Go on to the next future (1, 5); False when *steps* only lets other tasks run."""
        self._future = future = steps.send(None)
        if future is None:
            return False
        future._asyncio_future_blocking = False  # noqa: SLF001 -- as a task does with it
        if self.expired:
            future.cancel()
        self._asyncio_future_blocking = True
        return True

    def _hold(self, error: asyncio.CancelledError) -> None:
        """Keep *error* when it is the task's, and not that of a future that was cancelled (4)."""
        if self._asked or self._future is None:
            self.interrupted, self._asked = error, False

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
