"""Goes one step of a history: in a transaction, and again while its locks are not free."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.dialects import classify
from db_manager.dialects.known import dialect_of
from db_manager.dialects.migration import Migration
from db_manager.errors import DbManagerError
from db_manager.events import Migrated, Migrating, MigrationFailed
from db_manager.migrations.alembic_context import alembic, environment
from db_manager.migrations.failure import MigrationError, ways_out
from db_manager.migrations.history import History, Step
from db_manager.schema import PAUSE, refuse_lost
from lifecycle.error_text import tell
from lifecycle.errors import counted
from lifecycle.event import Event

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory


@dataclass(frozen=True)
class Ground:
    """Where steps are gone.

    Args:
        engine: An engine for migrations.
        deadline: When the waiting for locks ends, by `time.monotonic`.
        lock: The connection that holds the lock of the schema, if one does.
        publish: Gets the events.
        database: Name of the database in them.
    """

    engine: AsyncEngine
    deadline: float
    lock: AsyncConnection | None = None
    publish: Callable[[Event], None] = lambda _: None
    database: str = ""


@dataclass
class Going:
    """A step on its way.

    Args:
        ground: Where it is gone.
        history: The migrations of a plugin.
        scripts: What Alembic makes of them.
        step: The step.
        began: When it began to run here, by `time.monotonic`.
        is_committed: It is done, whatever happens to the connection now.
    """

    ground: Ground
    history: History
    scripts: "ScriptDirectory"
    step: Step
    began: float | None = None
    is_committed: bool = False

    async def go(self) -> None:
        """Go it, again and again while its locks are not free.

        Raises:
            MigrationError: It failed.
            DatabaseUnavailableError: The lock was lost before.
            DBAPIError: The database was lost, and nothing of the step stays.
            CancelledError: The task was cancelled.
        """
        if self.ground.lock is not None:
            refuse_lost(self.ground.lock)
        try:
            while not await self._is_gone():  # noqa: ASYNC110 -- the server's lock
                await asyncio.sleep(PAUSE)
        finally:
            if self.is_committed and self.began is not None:  # else another process has gone it
                self._tell(Migrated, duration=time.monotonic() - self.began)

    async def _is_gone(self) -> bool:
        """Go it once; return False if a lock was not free and nothing happened.

        Raises:
            MigrationError: It failed.
            CancelledError: The task was cancelled.
        """
        ground, step = self.ground, self.step
        lock = ground.lock.sync_connection if ground.lock is not None else None
        migration = dialect_of(ground.engine.dialect).migration(
            self.history.version_table, step.before, step.after, ground.deadline, lock
        )
        try:
            with migration.watching(ground.engine):
                async with alembic(), ground.engine.connect() as connection:
                    await connection.run_sync(self._run, migration)
        except asyncio.CancelledError:
            if not self.is_committed:
                self._tell_failure("cancelled", migration.kept)
            raise
        except Exception as error:
            if self.is_committed:
                return True
            if not migration.kept:
                if classify.is_undone(error) and time.monotonic() < ground.deadline:
                    return False
                if classify.is_disconnect(error):  # a COMMIT may have no answer: look again later
                    raise
            raise self._failure(error, migration.kept) from error
        return True

    def _run(self, connection: Connection, migration: Migration) -> None:
        # Alembic commits nothing in a transaction that somebody else began, as a listener of
        # SQLAlchemy's that says something on each new connection.
        if connection.in_transaction():
            connection.commit()
        try:
            self._apply(connection, migration)
        except Exception:
            if not migration.kept:
                connection.rollback()
                migration.settle(connection)
            raise
        self.is_committed = True
        migration.settle(connection)

    def _apply(self, connection: Connection, migration: Migration) -> None:
        undoes_ddl = dialect_of(connection.dialect).undoes_ddl
        with environment(
            self.scripts, self.history, connection, [self.step], transactional_ddl=undoes_ddl
        ) as running:
            context = running.get_context()
            with running.begin_transaction():
                migration.begin(connection)
                admitted = self._admits(context.get_current_heads())
                context.autocommit_block = _marked(context, migration)  # type: ignore[method-assign]  # guarded by a test
                if not undoes_ddl:
                    connection.rollback()  # Alembic begins a transaction of its own there
                if admitted:
                    running.run_migrations()
                if wrong := migration.end(connection):
                    raise DbManagerError(wrong)

    def _admits(self, heads: tuple[str, ...]) -> bool:
        """Return True if the database is where the step begins; nobody can change that any more.

        Raises:
            MigrationError: Another process has moved it, and not to where the step leads.
        """
        step, position = self.step, self.history.position
        if heads == ((step.before,) if step.before else ()):
            if self.began is None:
                self.began = time.monotonic()
                self._tell(Migrating, previous=step.before)
            return True
        goes_up = step.verb == "upgrade" and len(heads) == 1
        if not goes_up or position(heads[0]) < position(step.revision):
            raise MigrationError(
                self.history.plugin,
                step.revision,
                f"the table {self.history.version_table} says "
                f"{' and '.join(heads) or 'no revision'}, and said "
                f"{step.before or 'no revision'} before",
            )
        return False

    def _tell(self, kind: Callable[..., Event], **more: Any) -> None:
        about = {"plugin": self.history.plugin, "database": self.ground.database}
        self.ground.publish(kind(revision=self.step.revision, **about, **more))

    def _tell_failure(self, said: str, kept: int) -> None:
        if self.began is not None:
            self._tell(MigrationFailed, error=said, kept=kept)

    def _failure(self, error: Exception, kept: int) -> MigrationError:
        plugin, step = self.history.plugin, self.step
        said = str(error) if isinstance(error, DbManagerError) else tell(error)
        if isinstance(error, AttributeError) and error.name == step.verb:
            said = f"its file has no function {step.verb}()"
        self._tell_failure(said, kept)
        fix = "nothing of it is kept; correct the file, and start again"
        if kept:
            fix = f"{counted(kept, 'statement')} of it stayed; "
            fix += ways_out(plugin, step.before, step.after)
        elif classify.is_undone(error):
            fix = "nothing of it is kept; somebody held what it needs for too long: try it again"
        elif step.verb == "downgrade":
            fix = f"the database is at {step.before} still; correct the file, and try it again"
        return MigrationError(plugin, step.revision, f"{said}\n{fix}", kept)


def _marked(context: "MigrationContext", migration: Migration) -> Callable[[], Any]:
    """Return what stands in for Alembic's block outside of the transaction."""
    if not migration.may_leave:
        return nullcontext
    left = context.autocommit_block

    @contextmanager
    def marked() -> Iterator[None]:
        if context.connection is not None:
            migration.leave(context.connection)
        with left():
            yield

    return marked
