"""What a unit does after its end: callbacks for each outcome, dropped with their savepoint."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

from db_manager.errors import one_line
from db_manager.events import UnitCallbackFailed
from db_manager.protect import protect
from lifecycle.bus import EventBus

Callback = Callable[[], Awaitable[object] | object]

_logger = logging.getLogger("db_manager.uow")


class Callbacks:
    """The callbacks of one unit, in the order they were registered."""

    __slots__ = ("after_commit", "after_rollback")

    def __init__(self) -> None:
        self.after_commit: list[Callback] = []
        self.after_rollback: list[Callback] = []

    def mark(self) -> tuple[int, int]:
        """Return a mark for `drop_since`."""
        return len(self.after_commit), len(self.after_rollback)

    def drop_since(self, mark: tuple[int, int]) -> None:
        """Forget what was registered after *mark*: its savepoint was rolled back."""
        del self.after_commit[mark[0] :]
        del self.after_rollback[mark[1] :]


async def run_callbacks(
    callbacks: list[Callback], unit: int, bus: EventBus, deadline: float
) -> asyncio.CancelledError | None:
    """Run *callbacks* one after the other; one that fails does not stop the others.

    Args:
        callbacks: Take no arguments; sync or async.
        unit: Number of the unit, for the report of a failure.
        bus: Where a failure is published, as `uow.callback_failed`.
        deadline: Seconds each of them has.

    Returns:
        The cancellation of the running task that came meanwhile.
    """
    interrupted = None
    for callback in callbacks:
        running = _call(callback, unit, bus)
        interrupted = await protect(running, deadline) or interrupted
    return interrupted


async def _call(callback: Callback, unit: int, bus: EventBus) -> None:
    try:
        result = callback()
        if inspect.isawaitable(result):
            await result
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- reported, never raised
        report_failure(getattr(callback, "__qualname__", repr(callback)), unit, bus, error)


def report_failure(name: str, unit: int, bus: EventBus, error: BaseException) -> None:
    """Log and publish that something which a unit called after its end failed.

    Args:
        name: What failed.
        unit: Number of the unit.
        bus: Where it is published, as `uow.callback_failed`.
        error: What it raised; a cancellation means that it did not end in time.
    """
    _logger.error("callback %s of unit %d failed", name, unit, exc_info=error)
    late = isinstance(error, asyncio.CancelledError)
    said = "did not end in time" if late else one_line(error)
    bus.publish(UnitCallbackFailed(unit=unit, callback=name, error=said))
