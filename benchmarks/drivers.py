"""The parts of a unit on the driver's own connection: the floor below every toolkit."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.statements import (
    ADD,
    CHANGE,
    EMPTY,
    GET,
    INSERT,
    INSERT_SQL,
    MANY,
    MANY_SQL,
    SELECT,
    SELECT_SQL,
    THREE,
    UPDATE_SQL,
    key,
    nothing,
    some_keys,
)

Parts = Mapping[str, Callable[[Any], Any]]

_SQL: Final = (SELECT_SQL, UPDATE_SQL, INSERT_SQL, f"{INSERT_SQL} RETURNING id", MANY_SQL)
#: The statements as asyncpg, psycopg and sqlite3 want them.
DOLLAR: Final = tuple(sql.format("$1", "$2") for sql in _SQL)
PERCENT: Final = tuple(sql.format("%s", "%s") for sql in _SQL)
MARK: Final = tuple(sql.format("?", "?") for sql in _SQL)

# -- asyncpg -----------------------------------------------------------------------------------


async def asyncpg_select(connection: Any) -> None:
    """Read one row through asyncpg's connection."""
    await connection.fetchrow(DOLLAR[0], key())


async def asyncpg_insert(connection: Any) -> None:
    """Write one row through asyncpg's connection."""
    await connection.execute(DOLLAR[2], "new", 1)


async def asyncpg_three(connection: Any) -> None:
    """Read, change and write through asyncpg's connection."""
    mine = key()
    await connection.fetchrow(DOLLAR[0], mine)
    await connection.execute(DOLLAR[1], mine)
    await connection.execute(DOLLAR[2], "new", 1)


async def asyncpg_add(connection: Any) -> None:
    """Write one row and learn its key, through asyncpg's connection."""
    await connection.fetchval(DOLLAR[3], "new", 1)


async def asyncpg_change(connection: Any) -> None:
    """Read one row and change it, through asyncpg's connection."""
    mine = key()
    await connection.fetchrow(DOLLAR[0], mine)
    await connection.execute(DOLLAR[1], mine)


async def asyncpg_many(connection: Any) -> None:
    """Read some rows through asyncpg's connection."""
    await connection.fetch(DOLLAR[4], *some_keys())


# -- psycopg -----------------------------------------------------------------------------------


async def psycopg_select(connection: Any) -> None:
    """Read one row through psycopg's connection."""
    await (await connection.execute(PERCENT[0], (key(),))).fetchone()


async def psycopg_insert(connection: Any) -> None:
    """Write one row through psycopg's connection."""
    await connection.execute(PERCENT[2], ("new", 1))


async def psycopg_three(connection: Any) -> None:
    """Read, change and write through psycopg's connection."""
    mine = key()
    await (await connection.execute(PERCENT[0], (mine,))).fetchone()
    await connection.execute(PERCENT[1], (mine,))
    await connection.execute(PERCENT[2], ("new", 1))


async def psycopg_add(connection: Any) -> None:
    """Write one row and learn its key, through psycopg's connection."""
    await (await connection.execute(PERCENT[3], ("new", 1))).fetchone()


async def psycopg_change(connection: Any) -> None:
    """Read one row and change it, through psycopg's connection."""
    mine = key()
    await (await connection.execute(PERCENT[0], (mine,))).fetchone()
    await connection.execute(PERCENT[1], (mine,))


async def psycopg_many(connection: Any) -> None:
    """Read some rows through psycopg's connection."""
    await (await connection.execute(PERCENT[4], some_keys())).fetchall()


# -- aiosqlite ---------------------------------------------------------------------------------


async def aiosqlite_select(connection: Any) -> None:
    """Read one row through aiosqlite's connection."""
    await connection.execute_fetchall(MARK[0], (key(),))


async def aiosqlite_insert(connection: Any) -> None:
    """Write one row through aiosqlite's connection."""
    await connection.execute(MARK[2], ("new", 1))


async def aiosqlite_three(connection: Any) -> None:
    """Read, change and write through aiosqlite's connection."""
    mine = key()
    await connection.execute_fetchall(MARK[0], (mine,))
    await connection.execute(MARK[1], (mine,))
    await connection.execute(MARK[2], ("new", 1))


#: The parts by SQLAlchemy's name of the driver.
DRIVER_PARTS: Final[Mapping[str, Parts]] = {
    "asyncpg": {
        SELECT: asyncpg_select,
        INSERT: asyncpg_insert,
        THREE: asyncpg_three,
        EMPTY: nothing,
    },
    "psycopg": {
        SELECT: psycopg_select,
        INSERT: psycopg_insert,
        THREE: psycopg_three,
        EMPTY: nothing,
    },
    "aiosqlite": {
        SELECT: aiosqlite_select,
        INSERT: aiosqlite_insert,
        THREE: aiosqlite_three,
        EMPTY: nothing,
    },
}
#: The same work as the ORM's, on bare rows.
ROW_PARTS: Final[Mapping[str, Parts]] = {
    "asyncpg": {
        ADD: asyncpg_add,
        GET: asyncpg_select,
        CHANGE: asyncpg_change,
        MANY: asyncpg_many,
    },
    "psycopg": {
        ADD: psycopg_add,
        GET: psycopg_select,
        CHANGE: psycopg_change,
        MANY: psycopg_many,
    },
}
