"""The interfaces of a runner, which runs SQLAlchemy's synchronous core, and of timers."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> object:
        """Cancel the call."""


class Timers(Protocol):
    """Schedules calls in one event loop, which itself is the plain implementation."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call *callback* with *args* in *delay* seconds, or a little later."""


class Ending(Protocol):
    """The end of a unit, as a runner sees it."""

    def awaits_commit(self) -> bool:
        """Return True from the moment COMMIT is sent until it is answered."""

    def is_statement(self, awaited: object) -> bool:
        """Return True if *awaited* is a statement of the driver, which cancels no task.

        Args:
            awaited: What `finish` waits for; it was not awaited before.
        """

    def finish(self) -> None:
        """Commit or roll back, and release everything, in the running task.

        It may wait with `sqlalchemy.util.await_only`, and does not raise.
        """

    def expire(self) -> None:
        """Note that the deadline has passed: a CancelledError in `finish` comes of that."""

    def moved(self) -> None:
        """Note that the running task continues it: another one than it began in."""

    def give_up(self) -> None:
        """Release everything without contacting the server; called outside `finish`."""


class Runner(Protocol):
    """Runs the database work of units, in one event loop."""

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *function*, which may wait with `sqlalchemy.util.await_only`.

        Args:
            function: A synchronous function of SQLAlchemy, or one that calls such functions.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its result.
        """

    async def finish(self, ending: Ending, patience: float) -> asyncio.CancelledError | None:
        """Run `ending.finish` to completion, even if the calling task is cancelled.

        Args:
            ending: The end of a unit.
            patience: Seconds until `ending.finish` itself is cancelled. If it still runs 2.5
                seconds later, `ending.give_up` is called.

        Returns:
            The cancellation that arrived meanwhile, to be raised once the outcome is known.
        """
