"""Creates missing tables at start, so that ten replicas can start at once."""

from typing import Final

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

#: Key of PostgreSQL's advisory lock: the first eight bytes of sha256("db_manager.schema"),
#: without the sign bit.
LOCK_KEY: Final = 0x495BBB2721338185
#: Seconds a replica waits for another one that is creating the tables.
LOCK_WAIT: Final = 30


def missing_tables(connection: Connection, metadata: MetaData) -> list[str]:
    """Return the names of the tables of *metadata* that are not in the database, in order.

    Args:
        connection: SQLAlchemy's synchronous connection.
        metadata: The tables there should be.
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


async def create_missing_tables(engine: AsyncEngine, metadata: MetaData) -> tuple[str, ...]:
    """Create the tables of *metadata* that are missing, under a lock.

    Without the lock two processes that start together fail, also with IF NOT EXISTS. A database
    that misses nothing is only asked: its role needs no right to create.

    Args:
        engine: The engine.
        metadata: The tables there should be.

    Returns:
        The names of the tables created here.

    Raises:
        DBAPIError: The role may not create tables, or the lock did not come free in 30 s.
    """
    if not metadata.tables:
        return ()
    async with engine.connect() as connection:
        if not await connection.run_sync(missing_tables, metadata):
            return ()
    async with engine.begin() as connection:
        await connection.run_sync(_lock)
        try:
            missing = await connection.run_sync(missing_tables, metadata)
            if missing:
                await connection.run_sync(metadata.create_all)
        finally:
            await connection.run_sync(_unlock)
    return tuple(missing)


def _lock(connection: Connection) -> None:
    name = connection.dialect.name
    if name == "postgresql":  # released with the transaction
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_KEY})"))
    elif name in {"mysql", "mariadb"}:  # its DDL commits by itself: the session holds the lock
        connection.execute(text(f"SELECT GET_LOCK('db_manager.schema', {LOCK_WAIT})"))
    # SQLite: the transaction begins with the lock of the one writer.


def _unlock(connection: Connection) -> None:
    if connection.dialect.name in {"mysql", "mariadb"}:
        connection.execute(text("SELECT RELEASE_LOCK('db_manager.schema')"))
