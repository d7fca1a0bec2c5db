"""Notices that the database is gone, keeps asking for it, and says when it is back."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import sqlalchemy.exc
import tenacity
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.database import Database
from db_manager.dialects import classify
from db_manager.dialects.safe_text import connection_text
from db_manager.errors import DatabaseUnavailableError
from lifecycle.error_text import tell
from lifecycle.plugins.context import PluginContext

#: Seconds before the second question, and at most between two.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: Seconds that a server may take for an answer.
PING_TIMEOUT = 10.0
_PING: Final = text("SELECT 1")


class Availability:
    """Whether the database of a started plugin is there.

    It is lost when an engine has no connection and gets none: then the plugin is degraded and the
    units of that engine fail at once with `DatabaseUnavailableError`; a task asks again, with
    growing pauses. The first pause grows, too, when what had come back is lost again at once, so
    that a server that comes and goes does not fill the journal.

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
        self._pause = FIRST_WAIT
        self._recovered_at = -LONGEST_WAIT

    async def begin(self) -> None:
        """Prepare the database now, or begin to wait for it.

        Raises:
            DBAPIError: It is there and refuses us: a wrong password, an unknown database.
        """
        self._database.checkout.lost.clear()
        engine = self._database.engine
        try:
            await self._try(engine)
        except DatabaseUnavailableError as error:
            if error.__cause__ is not None and await classify.refuses_us(error.__cause__):
                raise error.__cause__ from None
            self.lost(engine, error.reason)
        self._database.checkout.on_lost = self.lost

    def lost(self, engine: AsyncEngine, reason: str) -> None:
        """Note that *engine* has no connection, and gets none because of *reason*."""
        lost = self._database.checkout.lost
        if engine in lost:
            return
        if not lost:
            self._context.degraded(reason)
        lost[engine] = reason
        # Not in the context of the update that found out.
        contextvars.Context().run(
            self._context.spawn, self._wait_for_it(engine), "db_manager.reconnect"
        )

    def end(self) -> None:
        """Stop noticing."""
        self._database.checkout.on_lost = lambda _engine, _reason: None

    async def _wait_for_it(self, engine: AsyncEngine) -> None:
        loop = asyncio.get_running_loop()
        retrying = tenacity.AsyncRetrying(
            wait=tenacity.wait_exponential_jitter(
                multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT
            ),
            # Retry a refusal too: the server let us in before, so somebody is likely to fix it.
            retry=tenacity.retry_if_exception_type((OSError, sqlalchemy.exc.SQLAlchemyError)),
            before_sleep=partial(self._still_lost, engine),
        )
        soon = loop.time() - self._recovered_at < LONGEST_WAIT
        self._pause = min(2 * self._pause, LONGEST_WAIT) if soon else FIRST_WAIT
        await asyncio.sleep(self._pause)
        await retrying(self._try, engine)
        self._recovered_at = loop.time()
        del self._database.checkout.lost[engine]
        if not self._database.checkout.lost:
            self._context.recovered()

    def _still_lost(self, engine: AsyncEngine, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._database.checkout.lost[engine] = getattr(error, "reason", "") or tell(error)

    async def _try(self, engine: AsyncEngine) -> None:
        with unavailable_errors():
            await ping(engine)
            if engine is self._database.engine:
                await self._prepare()


@contextlib.contextmanager
def unavailable_errors() -> Iterator[None]:
    """Turn every way of saying "not there now" into `DatabaseUnavailableError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DatabaseUnavailableError) or not classify.is_unavailable(error):
            raise
        raise DatabaseUnavailableError(connection_text(error)) from error


async def ping(engine: AsyncEngine) -> None:
    """Ask the server for a 1, on a connection of its own.

    Args:
        engine: The engine that the connection is of.

    Raises:
        OSError: It cannot be reached.
        DBAPIError: It refuses us.
    """
    async with asyncio.timeout(PING_TIMEOUT), engine.connect() as connection:
        await connection.execute(_PING)
