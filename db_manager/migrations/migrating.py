"""The engine, the lock and the transaction in which migrations run."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.config import LONGEST, DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.dialects.migration import Migration
from db_manager.engine.create import create_engine
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_command import configured
from db_manager.migrations.failure import BrokenRowsError
from db_manager.migrations.history import History
from db_manager.running.plain import shield
from db_manager.schema import schema_locked

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext


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
        async with _loosened(engine):
            yield engine
        return
    changed = {
        "statement_timeout": LONGEST,
        "idle_in_transaction_timeout": LONGEST,
        # CREATE INDEX CONCURRENTLY waits for locks too, and keeps nobody waiting.
        "lock_timeout": LONGEST if dialect.has_server else dialect.migration.lock_wait,
        # The lock has a connection of its own.
        "engine_options": {**config.engine_options, "pool_size": 2, "max_overflow": 0},
        "connect_args": {**config.connect_args, **dialect.migration_arguments},
    }
    patient = create_engine(config.model_copy(update=changed))
    try:
        yield patient
    finally:
        interrupted = await shield(patient.dispose(), config.exit_timeout)
        if interrupted is not None:
            raise interrupted


@asynccontextmanager
async def _loosened(engine: AsyncEngine) -> AsyncIterator[None]:
    """Let the one connection of a database in memory migrate during the block."""
    dialect = dialect_of(engine.dialect)
    async with engine.connect() as connection:
        undo = await connection.run_sync(dialect.loosen)
    try:
        yield
    finally:
        if undo:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql(undo)


@asynccontextmanager
async def one_at_a_time(
    engine: AsyncEngine, config: DatabaseConfig
) -> AsyncIterator[AsyncConnection | None]:
    """Keep other processes from migrating while the block lasts.

    Where there is one writer, each transaction does that by itself.

    Args:
        engine: An engine for migrations.
        config: The section [database].

    Yields:
        The connection that holds the lock, if one does.
    """
    if dialect_of(engine.dialect).has_one_writer:
        yield None
        return
    async with schema_locked(engine, config.migrate_timeout) as lock:
        yield lock


def in_transaction(
    connection: Connection,
    history: History,
    migration: Migration,
    *,
    admits: Callable[[tuple[str, ...]], bool] = lambda _: True,
    **options: Any,
) -> "Config":
    """Return a configuration of Alembic's that runs a command in one transaction of *connection*.

    Args:
        connection: A connection in no transaction.
        history: The migrations of a plugin.
        migration: How the database takes it.
        admits: Called in the transaction, when nobody else can change it any more, with the
            revisions that the database is at; nothing is done when it returns False.
        **options: For Alembic's `context.configure`.
    """
    undoes_ddl = dialect_of(connection.dialect).undoes_ddl
    # Alembic commits nothing in a transaction that somebody else began, as a listener of
    # SQLAlchemy's that says something on each new connection.
    if connection.in_transaction():
        connection.commit()

    def admit(context: "MigrationContext") -> bool:
        migration.begin(connection)
        admitted = admits(context.get_current_heads())
        context.autocommit_block = _marked(context, migration)  # type: ignore[method-assign]  # guarded by a test
        if not undoes_ddl:
            connection.rollback()  # Alembic begins a transaction of its own there
        return admitted

    def finish(_context: "MigrationContext") -> None:
        if wrong := migration.end(connection):
            raise BrokenRowsError(wrong)

    return configured(
        history, connection, admit=admit, finish=finish, transactional_ddl=undoes_ddl, **options
    )


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
