"""Moves a database along one history: a revision at a time, again while its locks are not free."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.dialects import classify
from db_manager.dialects.known import dialect_of
from db_manager.dialects.migration import Migration
from db_manager.errors import DbManagerError
from db_manager.events import Migrated, Migrating, MigrationFailed
from db_manager.migrations.alembic_command import alembic, unread
from db_manager.migrations.failure import MigrationError, ways_out
from db_manager.migrations.history import History
from db_manager.migrations.migrating import in_transaction
from db_manager.migrations.versions import Standing
from db_manager.schema import PAUSE, refuse_lost
from lifecycle.error_text import tell
from lifecycle.errors import counted
from lifecycle.event import Event


@dataclass
class Step:
    """One revision, applied or taken back.

    Args:
        verb: Alembic's command.
        revision: The revision.
        before: What the database is at; empty when it has none.
        after: What it will be at; empty when it will have none.
        began: When it began to run here, by `time.monotonic`.
        committed: It is done, whatever happens to the connection now.
    """

    verb: Literal["upgrade", "downgrade"]
    revision: str
    before: str
    after: str
    began: float | None = None
    committed: bool = False


class Moving:
    """Moves a database along one history.

    Args:
        engine: An engine for migrations.
        history: The migrations.
        deadline: When the waiting for locks ends, by `time.monotonic`.
        lock: The connection that holds the lock, if one does.
        publish: Gets the events.
        database: Name of the database in them.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        history: History,
        deadline: float,
        lock: AsyncConnection | None = None,
        publish: Callable[[Event], None] = lambda _: None,
        database: str = "",
    ) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine.dialect)
        self._history = history
        self._deadline = deadline
        self._lock = lock
        self._publish = publish
        self._about: dict[str, Any] = {"plugin": history.plugin, "database": database}

    async def up(self, standing: Standing, target: str) -> None:
        """Apply one revision after the other, up to *target*.

        Raises:
            MigrationError: One failed.
        """
        at, last, pending = standing.at or "", self._history.find(target), standing.pending
        for revision in pending[: pending.index(last) + 1] if last in pending else ():
            await self._go(Step("upgrade", revision, at, revision))
            at = revision

    async def down(self, standing: Standing, target: str) -> None:
        """Take one revision after the other back, down to *target*.

        Raises:
            MigrationError: One failed, or the database is before *target*.
        """
        line = ("", *self._history.ids)
        for number in steps_back(standing, self._history.find(target)):
            await self._go(Step("downgrade", line[number], line[number], line[number - 1]))

    async def _go(self, step: Step) -> None:
        """Go one step, again and again while its locks are not free."""
        if self._lock is not None:
            refuse_lost(self._lock)
        try:
            while not await self._is_gone(step):  # noqa: ASYNC110 -- the server's lock
                await asyncio.sleep(PAUSE)
        finally:
            if step.committed and step.began is not None:  # else another process has gone it
                took = time.monotonic() - step.began
                self._publish(Migrated(revision=step.revision, duration=took, **self._about))

    async def _is_gone(self, step: Step) -> bool:
        """Go one step; return False if a lock was not free and nothing happened.

        Raises:
            MigrationError: It failed.
            DBAPIError: The database was lost, and nothing of the step stays.
            CancelledError: The task was cancelled.
        """
        versions = self._history.version_table
        lock = self._lock.sync_connection if self._lock is not None else None
        migration = self._dialect.migration(versions, step.before, step.after, self._deadline, lock)
        try:
            with migration.watching(self._engine):
                async with alembic() as command, self._engine.connect() as connection:
                    await connection.run_sync(self._run, command, step, migration)
        except asyncio.CancelledError:
            if not step.committed:
                self._tell_failure(step, "cancelled", migration.kept)
            raise
        except Exception as error:
            if step.committed:
                return True
            if not migration.kept:
                if classify.is_undone(error) and time.monotonic() < self._deadline:
                    return False
                if classify.is_disconnect(error):  # a COMMIT may have no answer: look again later
                    raise
            raise self._failure(step, error, migration.kept) from error
        return True

    def _run(self, connection: Connection, command: Any, step: Step, migration: Migration) -> None:
        def admits(heads: tuple[str, ...]) -> bool:
            if heads != ((step.before,) if step.before else ()):
                self._refuse_stray(step, heads)
                return False
            if step.began is None:
                step.began = time.monotonic()
                before, revision = step.before, step.revision
                self._publish(Migrating(previous=before, revision=revision, **self._about))
            return True

        config = in_transaction(connection, self._history, migration, admits=admits)
        try:
            with unread():
                getattr(command, step.verb)(config, step.after or "base")
        except Exception:
            if not migration.kept:
                connection.rollback()
                migration.settle(connection)
            raise
        step.committed = True
        migration.settle(connection)

    def _refuse_stray(self, step: Step, heads: tuple[str, ...]) -> None:
        """Refuse a database that another process has not moved as we would.

        Raises:
            MigrationError: It is not where the step leads to, or beyond.
        """
        goes_up = step.verb == "upgrade" and len(heads) == 1
        position = self._history.position
        if not goes_up or position(heads[0]) < position(step.revision):
            raise MigrationError(
                self._history.plugin,
                step.revision,
                f"the table {self._history.version_table} says "
                f"{' and '.join(heads) or 'no revision'}, and said "
                f"{step.before or 'no revision'} before",
            )

    def _tell_failure(self, step: Step, said: str, kept: int) -> None:
        if step.began is not None:
            event = MigrationFailed(revision=step.revision, error=said, kept=kept, **self._about)
            self._publish(event)

    def _failure(self, step: Step, error: Exception, kept: int) -> MigrationError:
        plugin = self._history.plugin
        said = str(error) if isinstance(error, DbManagerError) else tell(error)
        if isinstance(error, AttributeError) and error.name == step.verb:
            said = f"its file has no function {step.verb}()"
        self._tell_failure(step, said, kept)
        fix = "nothing of it is kept; correct the file, and start again"
        if classify.is_undone(error):
            fix = "nothing of it is kept; somebody held what it needs for too long: try it again"
        elif step.verb == "downgrade":
            fix = f"the database is at {step.before} still; correct the file, and try it again"
        if kept:
            fix = f"{counted(kept, 'statement')} of it stayed; "
            fix += ways_out(plugin, step.before, step.after)
        return MigrationError(plugin, step.revision, f"{said}\n{fix}", kept)


def steps_back(standing: Standing, target: str) -> range:
    """Return the positions of the revisions to take back, the last one first.

    Args:
        standing: Where the database stands.
        target: The revision to go back to, or `base`.

    Raises:
        MigrationError: The database is before it, or at a revision that is in no file.
    """
    history, at = standing.history, standing.at or ""
    if standing.is_ahead:
        raise MigrationError(
            history.plugin,
            at,
            "the database is at it, and no file has it; take it back with the code that has it, or "
            f"say what the tables really are at: `db-manager migrate stamp {history.plugin} …`",
        )
    last = history.position("" if target == "base" else target)
    if history.position(at) < last:
        raise MigrationError(
            history.plugin,
            target,
            f"the database is at {at or 'no revision'}, which comes before it; "
            f"`db-manager migrate upgrade {history.plugin}` goes on",
        )
    return range(history.position(at), last, -1)
