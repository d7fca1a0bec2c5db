"""A running application with an outbox, and what is in its table."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import text

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from observability.testing import EventRecorder

#: Seconds until a test gives up.
PATIENCE = 20


class Kept:
    """A running application with an outbox."""

    def __init__(self, app: Application, events: EventRecorder) -> None:
        self.app = app
        self.events = events

    @property
    def units(self) -> UnitOfWorkFactory:
        """Makes units."""
        factory: UnitOfWorkFactory = self.app.services["db_manager:uow_factory"]
        return factory

    async def rows(self, what: str = "id, lane, method, state, attempts") -> list[tuple[Any, ...]]:
        """Return columns of the table, in the order in which they were written."""
        async with self.units(read_only=True) as uow:
            found = await uow.connection.execute(
                text(f"SELECT {what} FROM delivery__outbox ORDER BY id")  # noqa: S608 -- of tests
            )
            return [tuple(row) for row in found]

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *holds* returns True."""
        async with asyncio.timeout(PATIENCE):
            while not await holds():
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Wait until nothing is open."""

        async def is_settled() -> bool:
            return all(state for (state,) in await self.rows("state"))

        await self.until(is_settled)


Start = Callable[..., Awaitable[Kept]]
