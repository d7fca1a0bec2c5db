"""Creates missing tables at start, so that ten replicas can start at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, Table, inspect
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.base import plugin_of
from db_manager.dialects.known import dialect_of
from db_manager.errors import ConfigError, DatabaseUnavailableError, DbManagerError

#: Seconds that a replica waits while another one creates the tables.
LOCK_WAIT: Final = 30
#: Seconds between its looks at the lock.
PAUSE: Final = 0.1


def missing_tables(
    connection: Connection,
    metadata: MetaData,
    *,
    among: Collection[Table] | None = None,
    inspector: Inspector | None = None,
) -> list[str]:
    """Return the names of the tables of *metadata* that the database lacks, in creation order.

    Args:
        connection: SQLAlchemy's synchronous connection.
        metadata: The tables that should exist.
        among: Look for these only.
        inspector: What has looked at the database just now; it asks nothing twice.
    """
    inspector = inspector or inspect(connection)
    there = {
        schema: set(inspector.get_table_names(schema))
        for schema in {table.schema for table in metadata.tables.values()}
    }
    return [
        str(table.name)  # a plain str, for events: SQLAlchemy's quoted_name is a subclass
        for table in (metadata.sorted_tables if among is None else among)
        # A model of a view is no missing table, nor is one whose name differs in case on SQLite.
        if table.name not in there[table.schema]
        and not inspector.has_table(table.name, table.schema)
    ]


def unmigrated(
    metadata: MetaData, migrated: Collection[str], *, alone: bool = False
) -> list[Table]:
    """Return the tables that no migration makes, in creation order.

    Args:
        metadata: The tables that should exist.
        migrated: Plugins whose tables are left to their migrations.
        alone: Only those that can be there before any migration: they refer to no table that one
            makes, and neither do those that they refer to.
    """
    found: list[Table] = []
    for table in metadata.sorted_tables:
        referred = {key.column.table for key in table.foreign_keys} - {table} if alone else set()
        if plugin_of(table.name) not in migrated and referred.issubset(found):
            found.append(table)
    return found


def stands_on(plugin: str, metadata: MetaData) -> set[str]:
    """Return the plugins to whose tables those of *plugin* refer, or those that they refer to."""
    referred: dict[str, set[str]] = {}
    for table in metadata.tables.values():
        others = {plugin_of(key.column.table.name) for key in table.foreign_keys}
        referred.setdefault(plugin_of(table.name), set()).update(others)
    found: set[str] = set()
    fresh = referred.get(plugin, set()) - {plugin}
    while fresh:
        found |= fresh
        fresh = set().union(*(referred.get(each, set()) for each in fresh)) - found
    return found


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
            prefix = plugin_of(table.name)
            owner = owners.setdefault(prefix or metadata, database)
            if owner != database:
                raise ConfigError(
                    f"the table {table.name} of {database!r} belongs to {owner!r}, as every table "
                    f"that begins with {prefix + '__'}: rename it. If these are all tables of "
                    f"{owner!r}, set `metadata` of the plugin {database!r} to that of its own "
                    f"base: class OtherBase(Base): __abstract__ = True; metadata = MetaData(...)"
                )


def create_tables(
    connection: Connection | MockConnection,
    metadata: MetaData,
    tables: Sequence[Table],
    *,
    checkfirst: bool = True,
) -> None:
    """Create tables, and no type that only others have: their migrations make it.

    SQLAlchemy makes all types of the models with the first table: one of PostgreSQL's enumerations
    as it is at the end of its migrations, of which the first would fail.

    Args:
        connection: SQLAlchemy's synchronous connection, or what prints instead.
        metadata: The models.
        tables: Those to create, in creation order.
        checkfirst: Leave those alone that are there.
    """
    others = set(metadata.tables.values()).difference(tables)
    if any(_has_own_type(column) for table in others for column in table.columns):
        for table in tables:
            table.create(connection, checkfirst=checkfirst)
    else:
        metadata.create_all(connection, tables=tables, checkfirst=checkfirst)


def _has_own_type(column: Column[Any]) -> bool:
    """Return True if *column* may have a type of its own, which is created before its table."""
    return getattr(column.type, "native_enum", False) or hasattr(column.type, "create_type")


async def create_missing_tables(
    engine: AsyncEngine,
    metadata: MetaData,
    migrated: Collection[str] = (),
    *,
    alone: bool = False,
) -> tuple[str, ...]:
    """Create the tables of *metadata* that are missing, under a lock.

    Without the lock, two processes that start together can fail, even with IF NOT EXISTS. When no
    table is missing, nothing but queries is sent: the role needs no permission to create tables.

    Args:
        engine: The engine.
        metadata: The tables that should exist.
        migrated: Plugins whose tables are left to their migrations.
        alone: Only those that can be there before any migration, which may refer to them.

    Returns:
        The names of the tables that this call created.

    Raises:
        DBAPIError: The role may not create tables, or SQLite's file stayed locked.
        DbManagerError: Another process held the lock for too long.
    """
    if not (ours := unmigrated(metadata, migrated, alone=alone)):
        return ()
    look = partial(missing_tables, metadata=metadata, among=ours)
    async with engine.connect() as connection:
        if not await connection.run_sync(look):
            return ()
    async with schema_locked(engine, LOCK_WAIT) as connection:
        missing = await connection.run_sync(look)
        if missing:
            await connection.run_sync(create_tables, metadata, ours)
    return tuple(missing)


@asynccontextmanager
async def schema_locked(engine: AsyncEngine, seconds: float) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that keeps other replicas from changing the schema.

    Args:
        engine: The engine.
        seconds: Longest wait for them.

    Raises:
        DbManagerError: Another process held the lock for longer.
        DatabaseUnavailableError: The connection was lost, and with it the lock.
    """
    dialect = dialect_of(engine.dialect)
    deadline = time.monotonic() + seconds
    async with engine.connect() as connection:
        while not await connection.run_sync(dialect.lock_schema):
            if time.monotonic() > deadline:
                raise DbManagerError(
                    f"the tables are as they were: another process has been changing the schema "
                    f"for {seconds:g} s, or hangs while it does; look at the server's list of "
                    f"processes"
                )
            await connection.rollback()  # a transaction that waits would hold others up
            await asyncio.sleep(PAUSE)
        try:
            yield connection
            refuse_lost(connection)
            await connection.commit()
        finally:
            if _is_lost(connection):
                await connection.invalidate()  # with its connection the lock is gone
            else:
                await connection.run_sync(dialect.unlock_schema)


def refuse_lost(connection: AsyncConnection) -> None:
    """Refuse to go on without the lock.

    Args:
        connection: The connection that holds it.

    Raises:
        DatabaseUnavailableError: It was lost, and others may have the lock.
    """
    if _is_lost(connection):
        raise DatabaseUnavailableError("the connection with the lock of the schema was lost")


def _is_lost(connection: AsyncConnection) -> bool:
    sync = connection.sync_connection
    if sync is None or sync.invalidated:
        return True
    return dialect_of(connection.dialect).is_closed(sync.connection.driver_connection)
