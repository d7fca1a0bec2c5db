"""Creates missing tables at start, so that ten replicas can start at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.dialects.known import dialect_of
from db_manager.errors import ConfigError, DbManagerError

#: Seconds that a replica waits while another one creates the tables.
LOCK_WAIT: Final = 30
#: Seconds between its looks at the lock.
PAUSE: Final = 0.1


def missing_tables(connection: Connection, metadata: MetaData) -> list[str]:
    """Return the names of the tables of *metadata* that the database lacks, in creation order.

    Args:
        connection: SQLAlchemy's synchronous connection.
        metadata: The tables that should exist.
    """
    inspector = inspect(connection)
    there = {
        schema: set(inspector.get_table_names(schema))
        for schema in {table.schema for table in metadata.tables.values()}
    }
    return [
        str(table.name)  # a plain str, for events: SQLAlchemy's quoted_name is a subclass
        for table in metadata.sorted_tables
        # A model of a view is no missing table, nor is one whose name differs in case on SQLite.
        if table.name not in there[table.schema]
        and not inspector.has_table(table.name, table.schema)
    ]


def refuse_shared(databases: Mapping[str, MetaData]) -> None:
    """Refuse tables with one prefix, or one collection of tables, in two databases.

    Args:
        databases: The tables of each database, by the name of its plugin.

    Raises:
        ConfigError: There are such tables; the text names both databases.
    """
    owners: dict[object, str] = {}
    for database, metadata in databases.items():
        for table in metadata.tables.values():
            prefix, separator, _ = table.name.partition("__")
            owner = owners.setdefault(prefix if separator else metadata, database)
            if owner != database:
                raise ConfigError(
                    f"the table {table.name} of {database!r} belongs to {owner!r}, as every table "
                    f"that begins with {prefix + separator}: rename it. If these are all tables of "
                    f"{owner!r}, set `metadata` of the plugin {database!r} to that of its own "
                    f"base: class OtherBase(Base): __abstract__ = True; metadata = MetaData(...)"
                )


async def create_missing_tables(engine: AsyncEngine, metadata: MetaData) -> tuple[str, ...]:
    """Create the tables of *metadata* that are missing, under a lock.

    Without the lock, two processes that start together can fail, even with IF NOT EXISTS. When no
    table is missing, nothing but queries is sent: the role needs no permission to create tables.

    Args:
        engine: The engine.
        metadata: The tables that should exist.

    Returns:
        The names of the tables that this call created.

    Raises:
        DBAPIError: The role may not create tables, or SQLite's file stayed locked.
        DbManagerError: Another process held the lock for too long.
    """
    if not metadata.tables:
        return ()
    async with engine.connect() as connection:
        if not await connection.run_sync(missing_tables, metadata):
            return ()
    async with _schema_locked(engine) as connection:
        missing = await connection.run_sync(missing_tables, metadata)
        if missing:
            await connection.run_sync(metadata.create_all)
    return tuple(missing)


@asynccontextmanager
async def _schema_locked(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that keeps other replicas from creating tables.

    Raises:
        DbManagerError: Another process held the lock for too long.
    """
    dialect = dialect_of(engine.dialect)
    deadline = time.monotonic() + LOCK_WAIT
    async with engine.connect() as connection:
        while not await connection.run_sync(dialect.lock_schema):
            if time.monotonic() > deadline:
                raise DbManagerError(
                    f"no tables were created: another process has been creating tables for "
                    f"{LOCK_WAIT} s, or hangs while it does; look at the server's list of processes"
                )
            await connection.rollback()  # a transaction that waits would hold others up
            await asyncio.sleep(PAUSE)
        try:
            yield connection
            await connection.commit()
        finally:
            await connection.run_sync(dialect.unlock_schema)
