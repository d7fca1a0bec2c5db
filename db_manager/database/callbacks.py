"""Callbacks of a unit, before and after its end; a savepoint that is rolled back drops its own."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Container
from functools import partial

from db_manager.events import UnitCallbackFailed
from db_manager.running.plain import is_left, shield
from db_manager.sending import Sending
from lifecycle.bus import EventBus
from lifecycle.error_text import tell, textless

Callback = Callable[[], Awaitable[object] | object]
#: How many there were of each kind.
Mark = tuple[int, int, int, int]

_logger = logging.getLogger("db_manager.uow")


class Callbacks:
    """The callbacks of one unit, in the order they were registered."""

    __slots__ = ("after_commit", "after_rollback", "anyway", "before_commit", "sendings")

    def __init__(self) -> None:
        self.before_commit: list[Callback] = []
        self.after_commit: list[Callback] = []
        #: Each with the unit that it was registered with: this one, or one inside of it.
        self.after_rollback: list[tuple[Callback, object]] = []
        #: `after_rollback` of inner units that were rolled back, whatever becomes of the rest.
        self.anyway: list[Callback] = []
        #: The messages that are sent once it is committed.
        self.sendings: list[Sending] = []

    def mark(self) -> Mark:
        """Return the current position, for `undo_since`."""
        return (
            len(self.before_commit),
            len(self.after_commit),
            len(self.after_rollback),
            len(self.sendings),
        )

    def undo_since(self, mark: Mark, units: Container[object]) -> None:
        """Drop callbacks registered after *mark*: what they are about was undone.

        Args:
            mark: The position at its begin.
            units: The inner units that were undone as a whole: their `after_rollback` will run.
        """
        before_commit, after_commit, after_rollback, sendings = mark
        for sending in self.sendings[sendings:]:
            sending.settle("dropped")
        undone = self.after_rollback[after_rollback:]
        self.anyway += [callback for callback, unit in undone if unit in units]
        del self.before_commit[before_commit:]
        del self.after_commit[after_commit:]
        del self.after_rollback[after_rollback:]
        del self.sendings[sendings:]


async def run_callbacks(
    callbacks: list[Callback], unit: int, bus: EventBus, deadline: float, database: str = ""
) -> BaseException | None:
    """Run *callbacks* one after the other; a failure does not stop the others.

    Args:
        callbacks: Sync or async functions without arguments.
        unit: Number of the unit, for the report of a failure.
        bus: Where a failure is published, as `uow.callback_failed`.
        deadline: Longest run of each callback, in seconds.
        database: What events call the database of the unit.

    Returns:
        What to raise after all of them have run: the first SystemExit or KeyboardInterrupt of a
        callback, otherwise the cancellation of the running task that arrived meanwhile.
    """
    ending: BaseException | None = None
    interrupted: asyncio.CancelledError | None = None
    for callback in callbacks:
        late_at = asyncio.get_running_loop().time() + deadline
        call = _Call(
            callback, partial(report_failure, unit=unit, bus=bus, database=database), late_at
        )
        running = call.run()
        interrupted = await shield(running, deadline, expire=call.expire) or interrupted
        if is_left(running):
            call.leave()
        ending = ending or call.ending
    return ending or interrupted


class _Call:
    """A running callback and its result."""

    __slots__ = ("_callback", "_expired", "_late_at", "_left", "_tell", "ending")

    def __init__(self, callback: Callback, tell: Callable[..., None], late_at: float) -> None:
        self._callback = callback
        self._tell = tell
        self._late_at = late_at
        self._expired = False
        self._left = False
        #: SystemExit or KeyboardInterrupt of the callback.
        self.ending: BaseException | None = None

    async def run(self) -> None:
        """Run it; errors are reported, not raised: SystemExit in a task would stop the loop."""
        raised: BaseException | None = None
        try:
            result = self._callback()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:  # noqa: BLE001 -- reported
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                self.ending = error
            raised = error
        if self._left:
            return  # it was reported when it was abandoned
        # It may swallow its cancellation, or be cancelled by other code. By the clock as well:
        # one that blocks the loop is late although nobody could cancel it.
        late = self._expired or asyncio.get_running_loop().time() >= self._late_at
        if late or raised is not None:
            self._report(raised or asyncio.CancelledError(), late=late)

    def expire(self) -> None:
        """Note that its deadline has passed."""
        self._expired = True

    def leave(self) -> None:
        """Report that it is abandoned, because it ignores its cancellation."""
        self._left = True
        self._report(asyncio.CancelledError(), late=True)

    def _report(self, error: BaseException, *, late: bool) -> None:
        called = getattr(self._callback, "func", self._callback)  # functools.partial
        # Never its repr(), which may contain user data.
        name = getattr(called, "__qualname__", None) or type(called).__qualname__
        self._tell(name, error=error, late=late)


def report_failure(
    name: str,
    unit: int,
    bus: EventBus,
    error: BaseException,
    *,
    late: bool | None = None,
    database: str = "",
) -> None:
    """Log and publish the failure of code that a unit called after its end.

    Args:
        name: Name of the callback or listener.
        unit: Number of the unit.
        bus: Where it is published, as `uow.callback_failed`.
        error: The error it raised.
        late: Whether it exceeded its deadline; None means: if *error* is a cancellation.
        database: What events call the database of the unit.
    """
    _logger.error("callback %s of unit %d failed", name, unit, exc_info=textless(error))
    if late is None:
        late = isinstance(error, asyncio.CancelledError)
    said = "did not end in time" if late else tell(error)
    bus.publish(UnitCallbackFailed(unit=unit, callback=name, error=said, database=database))
