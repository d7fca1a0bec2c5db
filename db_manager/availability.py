"""Notices that the database is gone, keeps asking for it, and says when it is back."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import sqlalchemy.exc
import tenacity
from sqlalchemy import text

from db_manager import classify
from db_manager.database import Database
from db_manager.errors import DatabaseUnavailableError, one_line
from lifecycle.plugin import PluginContext

#: Seconds before the second question, and at most between two.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: Seconds that a server may take for an answer: psycopg would wait on a silent line for ever.
PING_TIMEOUT = 10.0
_PING: Final = text("SELECT 1")


class Availability:
    """Whether the database of a started plugin is there.

    While it is not, the plugin is degraded and units fail at once with
    `DatabaseUnavailableError`; one task asks again, with growing pauses.

    Args:
        database: The database.
        context: The context of the plugin's start.
        prepare: What is to be done with a database that is there: check it, create its tables.
    """

    def __init__(
        self, database: Database, context: PluginContext, prepare: Callable[[], Awaitable[None]]
    ) -> None:
        self._database = database
        self._context = context
        self._prepare = prepare
        self._asking: asyncio.Task[Any] | None = None

    async def begin(self) -> None:
        """Prepare the database now, or begin to wait for it.

        Raises:
            DBAPIError: It is there and refuses us: a wrong password, an unknown database.
        """
        self._database.lost = ""
        try:
            await self._try()
        except DatabaseUnavailableError as error:
            self.lost(error.reason)
        self._database.on_lost = self.lost

    def lost(self, reason: str) -> None:
        """Note that a connection attempt failed because of *reason*."""
        if self._database.lost:
            return
        self._database.lost = reason
        self._context.degraded(reason)
        # Not in the context of the update that found out.
        self._asking = contextvars.Context().run(
            self._context.spawn, self._wait_for_it(), "db_manager.reconnect"
        )

    def end(self) -> None:
        """Stop noticing."""
        self._database.on_lost = lambda _reason: None

    async def _wait_for_it(self) -> None:
        retrying = tenacity.AsyncRetrying(
            wait=tenacity.wait_exponential_jitter(
                multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT
            ),
            # Also one that refuses us now: it let us in before, or somebody mends it.
            retry=tenacity.retry_if_exception_type((OSError, sqlalchemy.exc.SQLAlchemyError)),
            before_sleep=self._still_lost,
        )
        await asyncio.sleep(FIRST_WAIT)
        await retrying(self._try)
        self._database.lost = ""
        self._context.recovered()

    def _still_lost(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._database.lost = getattr(error, "reason", "") or one_line(error)

    async def _try(self) -> None:
        with unavailable_errors():
            await ping(self._database)
            await self._prepare()


@contextlib.contextmanager
def unavailable_errors() -> Iterator[None]:
    """Turn every way of saying "not there now" into `DatabaseUnavailableError`."""
    try:
        yield
    except (OSError, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
        if isinstance(error, DatabaseUnavailableError) or not classify.is_unavailable(error):
            raise
        raise DatabaseUnavailableError(one_line(error)) from error


async def ping(database: Database) -> None:
    """Ask the server for a 1, on a connection of its own.

    Raises:
        OSError: It cannot be reached.
        DBAPIError: It refuses us.
    """
    async with asyncio.timeout(PING_TIMEOUT), database.engine.connect() as connection:
        await connection.execute(_PING)
