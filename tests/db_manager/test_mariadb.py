"""MariaDB: what the server is told to end by itself."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.dialects.known import dialect_at
from db_manager.unit.uow import UnitOfWork


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_other_drivers_of_mariadb_get_no_key_of_ours(driver: str) -> None:
    """Only the connection that knows our deadline is told of it."""
    url = make_url(f"mysql+{driver}://localhost/bot")
    sent = dialect_at(url).connect_arguments(
        DatabaseConfig(database="bot"), url, None, read_only=False
    )
    assert ("answer_timeout" in sent) == (driver == "asyncmy")


async def test_mariadb_ends_a_long_statement_itself(
    mariadb_database: URL, open_database: Callable[..., Database]
) -> None:
    """A statement is ended by the server after statement_timeout, and the connection serves on."""
    database = open_database(mariadb_database, statement_timeout=0.5)
    big = "information_schema.columns"
    with pytest.raises(OperationalError, match=r"1969|3024"):
        async with UnitOfWork(database) as uow:
            number = await uow.session.scalar(text("SELECT CONNECTION_ID()"))
            await uow.session.execute(text(f"SELECT COUNT(*) FROM {big} a, {big} b, {big} c"))
    assert uow.state == "rolled_back"
    async with UnitOfWork(database) as uow:
        assert await uow.session.scalar(text("SELECT CONNECTION_ID()")) == number


async def test_mariadb_waits_for_no_tables_lock_for_long(
    mariadb_database: URL, open_database: Callable[..., Database]
) -> None:
    """A change of a table that somebody uses gives up after lock_timeout."""
    database = open_database(mariadb_database, lock_timeout=1.0)
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INT)"))
        names = ["innodb_lock_wait_timeout", "lock_wait_timeout"]
        got = [await connection.scalar(text(f"SELECT @@SESSION.{name}")) for name in names]
    assert got == [1, 1]
    async with database.engine.connect() as reader, database.engine.connect() as changer:
        await reader.execute(text("SELECT * FROM t"))
        with pytest.raises(OperationalError, match="1205"):
            await changer.execute(text("ALTER TABLE t ADD COLUMN more INT"))


async def test_a_killed_idle_connection_is_replaced(
    mariadb_database: URL, open_database: Callable[..., Database]
) -> None:
    """A connection that the server ended while it was idle costs no unit and no ping."""
    database = open_database(mariadb_database)
    async with database.engine.connect() as admin:
        async with UnitOfWork(database) as uow:
            number = await uow.session.scalar(text("SELECT CONNECTION_ID()"))
        await admin.execute(text(f"KILL {number}"))
        gone = text(f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}")
        while await admin.scalar(gone):
            pass
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(text("SELECT CONNECTION_ID()")) != number
