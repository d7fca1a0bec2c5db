"""The plain runner: SQLAlchemy's `greenlet_spawn` for each call, a task for the end of a unit."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.util import greenlet_spawn

from db_manager.running.port import Ending
from db_manager.running.shield import shield

T = TypeVar("T")


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
            ending.moved()
            await self.run(ending.finish)

        interrupted = await shield(alone(), patience, give_up=ending.give_up)
        if not begun:  # the loop is closing: the task was cancelled before it started
            await self.run(ending.finish)
        return interrupted
