"""What a runner is: it runs SQLAlchemy's synchronous core, and the end of a unit to its end."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Ending(Protocol):
    """The end of a unit, as a runner needs it."""

    @property
    def awaits_commit(self) -> bool:
        """True from the moment that COMMIT is sent to its answer."""

    def finish(self) -> None:
        """Commit or roll back, and give everything back.

        It may wait by `sqlalchemy.util.await_only`, and does not raise.
        """

    def moved(self) -> None:
        """Note that the running task goes on with it: called first in that task."""

    def give_up(self) -> None:
        """Let everything go without another word to the server; called outside of `finish`."""


class Runner(Protocol):
    """Runs what units have to say to the database; of one event loop."""

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *function*, which may wait by `sqlalchemy.util.await_only`.

        Args:
            function: A synchronous function of SQLAlchemy's, or one that calls such.
            args: Its arguments.
            kwargs: The same by name.

        Returns:
            Its result.
        """

    async def finish(self, ending: Ending, patience: float) -> asyncio.CancelledError | None:
        """Run `ending.finish` to its end, also while the calling task is cancelled.

        Args:
            ending: The end of a unit.
            patience: Seconds until it is cancelled itself; `ending.give_up` is called when it has
                not ended 2.5 seconds after that.

        Returns:
            The cancellation that came meanwhile, to be raised once the outcome is known.
        """
