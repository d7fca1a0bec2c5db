"""The engine and the lock with which migrations run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.config import LONGEST, DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.engine.create import create_engine
from db_manager.engine.url import database_url
from db_manager.running.plain import shield
from db_manager.schema import schema_locked


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
