"""Notices that the database is unavailable, retries, and reports when it is back."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import sqlalchemy.exc
import tenacity
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.database import Database
from db_manager.database.ping import ping
from db_manager.dialects import classify
from db_manager.dialects.safe_text import connection_text
from db_manager.errors import DatabaseUnavailableError, DbManagerError
from db_manager.migrations.failure import MigrationError
from lifecycle.error_text import tell
from lifecycle.plugins.context import PluginContext

#: Seconds before the second attempt, and longest pause between two.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: Why units are refused before the first preparation of a start has ended.
_UNPREPARED: Final = "its tables are being prepared"


class Availability:
    """Tracks whether the database of a started plugin is available.

    An engine is lost when it has no connection and cannot open one. Then the plugin is degraded,
    units of that engine fail at once with `DatabaseUnavailableError`, and a task retries with
    growing pauses. If the database is lost again soon after it came back, the first pause grows as
    well, so that a flapping server does not fill the journal.

    Units of every kind are refused until the tables were prepared once; for good, if a migration
    failed.

    Args:
        database: The database.
        context: The context of the plugin's start.
        prepare: Asks whether the database is available, and creates its tables, for example.
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
        """Prepare the database now, or start waiting for it.

        Raises:
            DBAPIError: The server refuses us, for example because of a wrong password.
            DbManagerError: The database is not as it has to be, for example without a table.
        """
        self._database.checkout.lost.clear()
        self._database.checkout.unprepared = _UNPREPARED
        engine = self._database.engine
        try:
            await self._try(engine)
        except DatabaseUnavailableError as error:
            if error.__cause__ is not None and await classify.refuses_us(error.__cause__):
                raise error.__cause__ from None
            self.lost(engine, error.reason)
        except sqlalchemy.exc.TimeoutError as error:  # the pool's: its first one is not open yet
            self.lost(engine, connection_text(error))
        self._database.checkout.on_lost = self.lost

    def lost(self, engine: AsyncEngine, reason: str) -> None:
        """Note that *engine* has no connection and cannot open one because of *reason*."""
        lost = self._database.checkout.lost
        if engine in lost:
            return
        if not lost:
            self._context.degraded(reason)
        lost[engine] = reason
        # In an empty context, not that of the update that noticed it.
        contextvars.Context().run(
            self._context.spawn, self._wait_for_it(engine), f"{self._context.name}.reconnect"
        )

    def end(self) -> None:
        """Stop tracking."""
        self._database.checkout.on_lost = lambda _engine, _reason: None

    async def _wait_for_it(self, engine: AsyncEngine) -> None:
        loop = asyncio.get_running_loop()
        retrying = tenacity.AsyncRetrying(
            wait=tenacity.wait_exponential(FIRST_WAIT, LONGEST_WAIT - FIRST_WAIT)
            + tenacity.wait_random(0, FIRST_WAIT),
            # Retry a refusal too: the server let us in before, so somebody is likely to fix it. So
            # are tables that are missing: the migrations may have waited for the server as well.
            retry=tenacity.retry_if_exception(_is_retried),
            before_sleep=partial(self._still_lost, engine),
        )
        soon = loop.time() - self._recovered_at < LONGEST_WAIT
        self._pause = min(2 * self._pause, LONGEST_WAIT) if soon else FIRST_WAIT
        await asyncio.sleep(self._pause)
        try:
            await retrying(self._try, engine)
        except MigrationError as error:  # it would fail again
            reason = " ".join(str(error).split())
            checkout = self._database.checkout
            checkout.lost[engine] = checkout.unprepared = reason
            self._context.degraded(reason)
            return
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
            if engine is self._database.engine:
                await self._prepare()  # its first question is the ping
                self._database.checkout.unprepared = ""
            else:
                await ping(engine)


def _is_retried(error: BaseException) -> bool:
    kinds = OSError, sqlalchemy.exc.SQLAlchemyError, DbManagerError
    return isinstance(error, kinds) and not isinstance(error, MigrationError)


@contextlib.contextmanager
def unavailable_errors() -> Iterator[None]:
    """Turn every error that means "unavailable" into `DatabaseUnavailableError`.

    Raises:
        DatabaseUnavailableError: The error of the block says that the database cannot be reached or
            does not serve now.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DatabaseUnavailableError) or not classify.is_unavailable(error):
            raise
        raise DatabaseUnavailableError(connection_text(error)) from error
