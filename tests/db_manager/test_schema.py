"""Creation of missing tables: under a lock, all or nothing, and silent when nothing is missing."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, event, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.database import Database
from db_manager.dialects.mysql.mysql import LOCK
from db_manager.dialects.postgresql.postgresql import LOCK_KEY
from db_manager.errors import DbManagerError
from db_manager.schema import create_missing_tables


def model() -> MetaData:
    """Return two tables, one of which refers to the other."""
    metadata = MetaData()
    Table("notes__note", metadata, Column("id", Integer, primary_key=True))
    Table(
        "notes__line",
        metadata,
        Column("note", Integer, ForeignKey("notes__note.id")),
        Column("text", String),
    )
    return metadata


def statements_of(engine: AsyncEngine) -> list[str]:
    """Return a list that fills with what *engine* sends."""
    sent: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        sent.append(sql)

    return sent


async def tables(engine: AsyncEngine) -> set[str]:
    """Return the names of the tables that are there."""
    async with engine.connect() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


async def test_missing_tables_are_created_once(database: Database) -> None:
    """The first call creates and names the tables in order, the second one creates nothing."""
    assert await create_missing_tables(database.engine, model()) == ("notes__note", "notes__line")
    assert await create_missing_tables(database.engine, model()) == ()
    assert await tables(database.engine) == {"notes__note", "notes__line"}


async def test_only_the_missing_ones_are_created(database: Database) -> None:
    """A table that is there, with its rows, is left alone."""
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes__note (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO notes__note VALUES (7)"))
    assert await create_missing_tables(database.engine, model()) == ("notes__line",)
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT id FROM notes__note")) == 7


async def test_a_view_is_no_missing_table(database: Database) -> None:
    """A model of a view is there when the view is: nothing is created for it."""
    metadata = MetaData()
    Table("notes__view", metadata, Column("id", Integer, primary_key=True))
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE VIEW notes__view AS SELECT 1 AS id"))
    assert await create_missing_tables(database.engine, metadata) == ()


async def test_creation_is_all_or_nothing(database: Database) -> None:
    """When one table cannot be created, none is."""
    metadata = model()
    Table("notes__broken", metadata, Column("id", Integer, server_default=text("no_such(")))
    with pytest.raises(DBAPIError):
        await create_missing_tables(database.engine, metadata)
    assert await tables(database.engine) == set()


async def test_nothing_missing_asks_for_nothing(database: Database) -> None:
    """A complete database is looked at, and neither locked nor changed."""
    await create_missing_tables(database.engine, model())
    sent = statements_of(database.engine)
    await create_missing_tables(database.engine, model())
    assert sent
    assert not [sql for sql in sent if "lock" in sql.lower() or "CREATE" in sql]


async def test_no_model_is_no_connection() -> None:
    """Without models nobody connects: there need not even be a server."""
    nowhere: Any = None
    assert await create_missing_tables(nowhere, MetaData()) == ()


async def test_several_at_once_create_each_table_once(
    postgres_database: URL, open_database: Any
) -> None:
    """Eight engines that start together all succeed, and each table has one creator."""
    databases = [open_database(postgres_database) for _ in range(8)]
    created = await asyncio.gather(
        *(create_missing_tables(database.engine, model()) for database in databases)
    )
    assert sorted(name for names in created for name in names) == ["notes__line", "notes__note"]


async def test_without_the_lock_they_fail(postgres_database: URL, open_database: Any) -> None:
    """The same start without the lock fails, so the test above can."""
    databases = [open_database(postgres_database) for _ in range(8)]
    together = asyncio.Barrier(8)

    async def create(database: Database) -> None:
        async with database.engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            await together.wait()
            await connection.run_sync(model().create_all)

    done = await asyncio.gather(*(create(d) for d in databases), return_exceptions=True)
    assert [error for error in done if isinstance(error, DBAPIError)]


def tries_again(engine: AsyncEngine) -> asyncio.Event:
    """Return an event that is set when *engine* asks for PostgreSQL's lock a second time."""
    asked: list[str] = []
    again = asyncio.Event()

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if "pg_try_advisory" in sql:
            asked.append(sql)
        if len(asked) > 1:
            again.set()

    return again


async def test_the_lock_is_waited_for(postgres_database: URL, open_database: Any) -> None:
    """Who finds the lock taken waits for it, and creates what is missing then."""
    holder, database = open_database(postgres_database), open_database(postgres_database)
    waits = tries_again(database.engine)
    async with holder.engine.begin() as other:
        await other.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_KEY})"))
        creating = asyncio.create_task(create_missing_tables(database.engine, model()))
        await waits.wait()
        assert await tables(holder.engine) == set()
    assert await creating == ("notes__note", "notes__line")


async def test_who_waits_for_the_lock_holds_nobody_up(
    postgres_database: URL, open_database: Any
) -> None:
    """While a replica waits for the lock, CREATE INDEX CONCURRENTLY of its holder goes through.

    A backend that is blocked in `pg_advisory_xact_lock` has a snapshot, which the index waits for.
    """
    holder, database = open_database(postgres_database), open_database(postgres_database)
    waits = tries_again(database.engine)
    async with holder.engine.connect() as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        await other.execute(text("CREATE TABLE large (id int)"))
        await other.execute(text(f"SELECT pg_advisory_lock({LOCK_KEY})"))
        creating = asyncio.create_task(create_missing_tables(database.engine, model()))
        await waits.wait()
        await other.execute(text("CREATE INDEX CONCURRENTLY ON large (id)"))
        assert not creating.done()
        await other.execute(text(f"SELECT pg_advisory_unlock({LOCK_KEY})"))
    assert await creating == ("notes__note", "notes__line")


async def check_refusal(database: Database, lock: str) -> None:
    """Creating tables fails while another connection has *lock*, and works afterwards."""
    metadata = MetaData()
    Table("notes__page", metadata, Column("id", Integer, primary_key=True))
    async with database.engine.connect() as other:
        await other.execute(text(lock))
        with pytest.raises(DbManagerError, match="another process has been changing the schema"):
            await create_missing_tables(database.engine, metadata)
        assert await tables(database.engine) == set()
    assert await create_missing_tables(database.engine, metadata) == ("notes__page",)


async def test_a_lock_that_does_not_come_free_is_an_error(
    postgres_database: URL, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is not free in time is an error that says so, and no table is created then."""
    monkeypatch.setattr("db_manager.schema.LOCK_WAIT", 0)
    lock = f"SELECT pg_advisory_xact_lock({LOCK_KEY})"
    await check_refusal(open_database(postgres_database), lock)


async def test_so_it_is_on_mariadb(
    mariadb_database: URL, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB says in a row, and not by an error, that the lock is not free."""
    monkeypatch.setattr("db_manager.schema.LOCK_WAIT", 0)
    await check_refusal(open_database(mariadb_database), f"SELECT GET_LOCK({LOCK}, 0)")


async def test_two_bots_on_one_mariadb_do_not_wait_for_each_other(
    mariadb_database: URL, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is one for each database, though the server has one list of names."""
    monkeypatch.setattr("db_manager.schema.LOCK_WAIT", 0)
    database = open_database(mariadb_database)
    metadata = MetaData()
    Table("notes__page", metadata, Column("id", Integer, primary_key=True))
    async with database.engine.connect() as other:
        await other.execute(text("USE mysql"))
        await other.execute(text(f"SELECT GET_LOCK({LOCK}, 0)"))
        assert await create_missing_tables(database.engine, metadata) == ("notes__page",)
        await other.invalidate()  # it is in another database now


async def test_a_role_without_rights_can_start(postgres_database: URL, open_database: Any) -> None:
    """A role that may not create tables can use a complete database."""
    owner = open_database(postgres_database)
    await create_missing_tables(owner.engine, model())
    async with owner.engine.begin() as connection:
        await connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        role = f"weak_{postgres_database.database}"
        await connection.execute(text(f'CREATE ROLE "{role}" LOGIN'))
    try:
        weak = open_database(postgres_database.set(username=role))
        assert await create_missing_tables(weak.engine, model()) == ()
        await weak.dispose()
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text(f'DROP ROLE "{role}"'))
