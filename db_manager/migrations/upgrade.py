"""Applies what is pending: a revision at a time, under a lock, however many processes start."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects import classify
from db_manager.dialects.known import dialect_of
from db_manager.events import Migrated, Migrating, MigrationFailed
from db_manager.migrations.alembic_command import alembic
from db_manager.migrations.failure import BrokenRowsError, MigrationError
from db_manager.migrations.history import History
from db_manager.migrations.kept import Kept
from db_manager.migrations.migrating import in_transaction, migrating_engine, one_at_a_time
from db_manager.migrations.versions import Standing, standings
from db_manager.schema import PAUSE
from lifecycle.error_text import tell
from lifecycle.errors import counted
from lifecycle.event import Event

Publish = Callable[[Event], None]


async def upgrade(
    config: DatabaseConfig,
    histories: Iterable[History],
    *,
    target: str = "head",
    engine: AsyncEngine | None = None,
    publish: Publish = lambda _: None,
    database: str = "",
) -> None:
    """Apply what is pending, under a lock that other processes wait for.

    Args:
        config: The section [database].
        histories: The migrations of its plugins, in their order.
        target: The last revision to apply.
        engine: The engine of the bot; needed for a database in memory only.
        publish: Gets the events.
        database: Name of the database in them.

    Raises:
        MigrationError: A migration failed; the text says what is kept and what to do.
        MigrationsNotInstalledError: Alembic is not installed.
        DbManagerError: Another process held the lock for longer than `migrate_timeout`.
        DBAPIError: The database cannot be reached.
    """
    deadline = time.monotonic() + config.migrate_timeout
    async with migrating_engine(config, engine) as patient, one_at_a_time(patient, config):
        async with patient.connect() as connection:
            found = await connection.run_sync(standings, histories)
        for standing in found:
            step = _Step(patient, standing.history, publish, database, deadline)
            await step.all_of(standing, target)


class _Step:
    """Applies revisions of one history.

    Args:
        engine: An engine for migrations.
        history: The migrations.
        publish: Gets the events.
        database: Name of the database in them.
        deadline: When waiting for locks ends, by `time.monotonic`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        history: History,
        publish: Publish,
        database: str,
        deadline: float,
    ) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine.dialect)
        self._history = history
        self._publish = publish
        self._about: dict[str, Any] = {"plugin": history.plugin, "database": database}
        self._deadline = deadline

    async def all_of(self, standing: Standing, target: str) -> None:
        """Apply one revision after the other, up to *target*."""
        at, last = standing.at, self._history.find(target)
        for revision in standing.pending:
            await self._apply(at, revision)
            at = revision
            if revision == last:
                break

    async def _apply(self, at: str | None, revision: str) -> None:
        """Apply *revision*, again and again while its locks are not free."""
        attempt = _Attempt(at, revision, Kept(undoes_ddl=self._dialect.undoes_ddl))
        with attempt.kept.counting(self._engine):
            while not await self._done(attempt):  # noqa: ASYNC110 -- the server's lock
                await asyncio.sleep(PAUSE)
        if attempt.began is not None:  # else another process has applied it meanwhile
            took = time.monotonic() - attempt.began
            self._publish(Migrated(revision=revision, duration=took, **self._about))

    async def _done(self, attempt: "_Attempt") -> bool:
        """Apply it once; return False if a lock was not free and nothing happened.

        Raises:
            MigrationError: It failed.
        """
        try:
            async with alembic() as command, self._engine.connect() as connection:
                await connection.run_sync(self._run, command, attempt)
        except Exception as error:
            waits = classify.is_undone(error) and time.monotonic() < self._deadline
            if waits and not attempt.kept.statements:
                return False
            raise self._failure(error, attempt) from error
        return True

    def _run(self, connection: Connection, command: Any, attempt: "_Attempt") -> None:
        def begun() -> None:
            if attempt.began is None:
                attempt.began = time.monotonic()
                at, revision = attempt.at or "", attempt.revision
                self._publish(Migrating(previous=at, revision=revision, **self._about))

        # Look again in the transaction: another process may have applied it meanwhile.
        expected = (attempt.at,) if attempt.at else ()
        config = in_transaction(
            connection, self._history, self._dialect, expected=expected, begun=begun
        )
        command.upgrade(config, attempt.revision)

    def _failure(self, error: Exception, attempt: "_Attempt") -> MigrationError:
        plugin, revision, kept = self._history.plugin, attempt.revision, attempt.kept.statements
        said = str(error) if isinstance(error, BrokenRowsError) else tell(error)
        self._publish(MigrationFailed(revision=revision, error=said, kept=kept, **self._about))
        fix = "nothing of it is kept; correct the file, and start again"
        if kept:
            fix = (
                f"{counted(kept, 'statement')} of it stayed; finish it by hand and say so with "
                f"`db-manager migrate stamp {plugin} {revision}`, or undo them and say "
                f"`db-manager migrate stamp {plugin} {attempt.at or 'base'}`"
            )
        return MigrationError(plugin, revision, f"{said}\n{fix}", kept)


class _Attempt:
    """A revision that is being applied.

    Args:
        at: What the database is at.
        revision: The revision.
        kept: What it has changed for good.
    """

    def __init__(self, at: str | None, revision: str, kept: Kept) -> None:
        self.at = at
        self.revision = revision
        self.kept = kept
        #: When it began to run here, by `time.monotonic`.
        self.began: float | None = None
