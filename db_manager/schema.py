"""Creates missing tables at start, so that ten replicas can start at once."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.dialects.known import dialect_of
from db_manager.errors import ConfigError

#: Seconds that a replica waits while another one creates the tables.
LOCK_WAIT: Final = 30


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
        if table.name not in there[table.schema]
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
        DBAPIError: The role may not create tables, or the lock did not become free in time.
        DbManagerError: The lock did not become free in time, on MariaDB and MySQL.
    """
    if not metadata.tables:
        return ()
    async with engine.connect() as connection:
        if not await connection.run_sync(missing_tables, metadata):
            return ()
    dialect = dialect_of(engine.dialect)
    async with engine.begin() as connection:
        # On SQLite the transaction itself begins with the write lock.
        await connection.run_sync(dialect.lock_schema, LOCK_WAIT)
        try:
            missing = await connection.run_sync(missing_tables, metadata)
            if missing:
                await connection.run_sync(metadata.create_all)
        finally:
            await connection.run_sync(dialect.unlock_schema)
    return tuple(missing)
