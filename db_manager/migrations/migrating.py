"""The engine, the lock and the transaction in which migrations run."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import LONGEST, DatabaseConfig
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.engine.create import create_engine
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_command import configured
from db_manager.migrations.failure import BrokenRowsError
from db_manager.migrations.history import History
from db_manager.schema import schema_locked

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

#: Longest wait for a lock at a time, in seconds: whoever comes after us waits as long.
LOCK_WAIT: Final = 2.0


@asynccontextmanager
async def migrating_engine(
    config: DatabaseConfig, engine: AsyncEngine | None = None
) -> AsyncIterator[AsyncEngine]:
    """Yield an engine without the timeouts of units: a migration may take minutes.

    Args:
        config: The section [database].
        engine: The engine of the bot, which is used for a database in memory: it is in that only.
    """
    url = database_url(config)[0]
    dialect = dialect_at(url)
    if engine is not None and dialect.is_in_memory(url):
        yield engine
        return
    changed = {
        "statement_timeout": LONGEST,
        "idle_in_transaction_timeout": LONGEST,
        # CREATE INDEX CONCURRENTLY waits for locks too, and keeps nobody waiting.
        "lock_timeout": LONGEST if dialect.has_server else LOCK_WAIT,
        "pool_size": 2,  # the lock has a connection of its own
        "max_overflow": 0,
        "connect_args": {**config.connect_args, **dialect.migration_arguments},
    }
    patient = create_engine(config.model_copy(update=changed))
    try:
        yield patient
    finally:
        await patient.dispose()


def one_at_a_time(
    engine: AsyncEngine, config: DatabaseConfig
) -> AbstractAsyncContextManager[object]:
    """Keep other processes from migrating while the block lasts.

    Where there is one writer, each transaction does that by itself.

    Args:
        engine: An engine for migrations.
        config: The section [database].
    """
    if dialect_of(engine.dialect).has_one_writer:
        return nullcontext()
    return schema_locked(engine, config.migrate_timeout)


def in_transaction(
    connection: Connection,
    history: History,
    dialect: Dialect,
    *,
    expected: tuple[str, ...] | None = None,
    begun: Callable[[], None] = lambda: None,
    **options: Any,
) -> "Config":
    """Return a configuration of Alembic's that runs a command in one transaction of *connection*.

    Args:
        connection: A connection in no transaction.
        history: The migrations of a plugin.
        dialect: The dialect of the connection.
        expected: What the database must be at in the transaction, else nothing is done; None is
            anything.
        begun: Called when it is at that, and nobody else can change it any more.
        **options: For Alembic's `context.configure`.
    """

    def admit(context: "MigrationContext") -> bool:
        dialect.begin_migration(connection, LOCK_WAIT)
        admitted = expected is None or context.get_current_heads() == expected
        if not dialect.undoes_ddl:
            connection.rollback()  # Alembic begins a transaction of its own there
        if admitted:
            begun()
        return admitted

    def finish(_context: "MigrationContext") -> None:
        if wrong := dialect.end_migration(connection):
            raise BrokenRowsError(wrong)

    return configured(
        history,
        connection,
        admit=admit,
        finish=finish,
        transactional_ddl=dialect.undoes_ddl,
        **options,
    )
