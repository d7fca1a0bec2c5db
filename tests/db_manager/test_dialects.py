"""What each driver knows of its connection without a round trip."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from support.line import Line

from db_manager.database.database import Database
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.in_use import is_silent

Open = Callable[..., Database]


@pytest.fixture(params=["asyncpg", "psycopg", "asyncmy"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database, once for each driver that talks to a server."""
    fixture = "mariadb_database" if request.param == "asyncmy" else "postgres_database"
    url: URL = request.getfixturevalue(fixture)
    return url.set(drivername=f"{url.get_backend_name()}+{request.param}")


async def driver_of(connection: AsyncConnection) -> Any:
    """Return the driver's own connection."""
    return (await connection.get_raw_connection()).driver_connection


async def test_a_cut_line_is_noticed(url: URL, open_database: Open) -> None:
    """Once the end of the line has arrived the connection is known to be gone, idle or in use."""
    async with Line(url.host or "", url.port or 3306) as line:
        database = open_database(line.url(url))
        async with database.engine.connect() as connection:
            known, driver = database.dialect, await driver_of(connection)
            assert (known.is_closed(driver), known.is_dead(driver)) == (False, False)
            await connection.execute(text("SELECT 1"))
            assert (known.is_closed(driver), known.is_dead(driver)) == (
                False,
                url.get_backend_name() != "mysql",
            )
            await line.end()
            assert (known.is_closed(driver), known.is_dead(driver)) == (True, True)
            await connection.invalidate()


async def test_an_open_transaction_is_noticed(mariadb_database: URL, open_database: Open) -> None:
    """The status that comes with MariaDB's answers says that a transaction has changed rows."""
    database = open_database(mariadb_database)
    async with database.engine.connect() as connection:
        known, driver = database.dialect, await driver_of(connection)
        await connection.execute(text("CREATE TABLE t (id INT) ENGINE = InnoDB"))
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        assert (known.is_closed(driver), known.is_dead(driver)) == (False, True)
        await connection.rollback()
        assert not known.is_dead(driver)


async def test_a_closed_file_is_noticed(sqlite_database: URL, open_database: Open) -> None:
    """A connection of SQLite's that somebody closed is known to be closed."""
    database = open_database(sqlite_database)
    async with database.engine.connect() as connection:
        known, driver = database.dialect, await driver_of(connection)
        assert (known.is_closed(driver), known.is_dead(driver)) == (False, False)
        await driver.close()
        assert (known.is_closed(driver), known.is_dead(driver)) == (True, True)
        await connection.invalidate()


@pytest.mark.parametrize("closed", [True, False])
def test_an_unknown_driver_is_asked_for_closed(*, closed: bool) -> None:
    """What another driver calls closed is closed; one that says nothing is not."""

    class Other:
        """The connection of another driver."""

    other: Any = Other()
    assert not Dialect().is_dead(other)
    other.closed = closed
    assert (Dialect().is_closed(other), Dialect().is_dead(other)) == (closed, closed)


def test_silence_is_a_timeout_somewhere_below() -> None:
    """An error that a timeout caused says that nobody spoke; a reset line says more."""
    error = ValueError()
    error.__cause__ = RuntimeError()
    assert not is_silent(error)
    error.__cause__.__cause__ = TimeoutError()
    assert is_silent(error)
    assert not is_silent(ConnectionResetError())
