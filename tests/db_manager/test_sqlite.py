"""SQLite through our connection: no lost update, safe settings, and everything a driver does."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import ForeignKey, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.dialects.sqlite.connection import SqliteConnection
from db_manager.dialects.sqlite.in_thread import FIRST_ROWS
from db_manager.dialects.sqlite.statement import kind
from db_manager.errors import TransactionAbortedError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

ROWS = FIRST_ROWS * 2 + 500
#: Counts for minutes, in one statement, after it has told that it runs.
ENDLESS = text(
    "WITH RECURSIVE c(x) AS (SELECT started() UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
)


class Shelf(Base):
    """A shelf."""

    __tablename__ = "shelf_test__shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[int] = mapped_column(default=0)


class Book(Base):
    """A book, on a shelf that is there."""

    __tablename__ = "shelf_test__book"

    id: Mapped[int] = mapped_column(primary_key=True)
    shelf: Mapped[int] = mapped_column(ForeignKey("shelf_test__shelf.id"))


@pytest.fixture
async def database(sqlite_database: URL, open_database: Callable[..., Database]) -> Database:
    """A SQLite file with the tables and one shelf."""
    database = open_database(sqlite_database)
    tables = [Base.metadata.tables[f"shelf_test__{name}"] for name in ("shelf", "book")]
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables)
        await connection.execute(insert(Shelf).values(id=1))
    return database


async def put_a_book(factory: UnitOfWorkFactory) -> None:
    """Read how many books there are, and write one more."""
    async with factory() as uow:
        shelf = await uow.session.get_one(Shelf, 1)
        await asyncio.sleep(0)
        shelf.books += 1


async def books(database: Database) -> int:
    """Return how many books were counted."""
    async with database.engine.connect() as connection:
        return int((await connection.scalars(select(Shelf.books))).one())


async def test_no_update_is_lost(database: Database) -> None:
    """Fifty units that read and then write at once count to fifty."""
    factory = UnitOfWorkFactory(database)
    await asyncio.gather(*(put_a_book(factory) for _ in range(50)))
    assert await books(database) == 50


async def test_no_update_is_lost_between_programs(
    database: Database, open_database: Callable[..., Database]
) -> None:
    """Engines that know nothing of each other lose no update either."""
    factories = [
        UnitOfWorkFactory(database),
        UnitOfWorkFactory(open_database(database.engine.url)),
    ]
    await asyncio.gather(*(put_a_book(factory) for factory in factories for _ in range(10)))
    assert await books(database) == 20


async def test_safe_settings(sqlite_database: URL, open_database: Callable[..., Database]) -> None:
    """Connections log ahead, keep foreign keys, and sync as the configuration says."""
    for level, number in (("NORMAL", 1), ("FULL", 2)):
        database = open_database(sqlite_database, sqlite_synchronous=level)
        async with database.engine.connect() as connection:
            got = [
                await connection.scalar(text(f"PRAGMA {name}"))
                for name in ("journal_mode", "foreign_keys", "synchronous")
            ]
        assert got == ["wal", 1, number]


async def test_foreign_keys_are_kept(database: Database) -> None:
    """A row that refers to nothing is refused."""
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        async with UnitOfWork(database) as uow:
            uow.session.add(Book(shelf=77))


async def test_tables_belong_to_the_transaction(database: Database) -> None:
    """A table created in a unit that is rolled back is gone, also with rows in it."""
    with pytest.raises(ZeroDivisionError):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("CREATE TABLE extra (id INTEGER)"))
            await uow.session.execute(text("INSERT INTO extra VALUES (1)"))
            raise ZeroDivisionError
    with pytest.raises(OperationalError, match="no such table: extra"):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT * FROM extra"))


BOOKS = select(Book.id).order_by(Book.id)


async def test_more_rows_than_one_crossing_brings(database: Database) -> None:
    """However the rows are fetched, each comes once and in order."""
    everything = list(range(1, ROWS + 1))
    async with UnitOfWork(database) as uow:
        await uow.session.execute(insert(Book), [{"shelf": 1}] * ROWS)
    async with UnitOfWork(database) as uow:
        connection = uow.connection
        assert list(await connection.scalars(BOOKS)) == everything
        partitions = (await connection.execute(BOOKS)).partitions(700)
        assert [row.id for part in partitions for row in part] == everything
        result = await connection.execute(BOOKS)
        some = [result.fetchone(), *result.fetchmany(FIRST_ROWS), *result.fetchall()]
        assert [row.id for row in some if row is not None] == everything
        stream = await connection.stream(BOOKS)
        assert [row.id async for row in stream] == everything
        stream = await connection.stream(BOOKS)
        parts = [part async for part in stream.partitions(FIRST_ROWS - 1)]
        assert [row.id for part in parts for row in part] == everything
        exactly = await connection.scalars(BOOKS.limit(FIRST_ROWS))
        assert len(exactly.all()) == FIRST_ROWS


async def test_a_result_that_was_not_read_to_its_end(database: Database) -> None:
    """A cursor that is left with rows keeps nobody from writing or committing."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(insert(Book), [{"shelf": 1}] * ROWS)
    async with UnitOfWork(database) as uow:
        stream = await uow.connection.stream(BOOKS)
        assert (await stream.fetchone()) == (1,)
        await stream.close()
        await uow.connection.execute(text("DROP TABLE shelf_test__book"))
    assert uow.state == "committed"


async def test_many_rows_and_what_they_return(database: Database) -> None:
    """Executemany, RETURNING, rowcount and generated keys work as with every driver."""
    async with UnitOfWork(database) as uow:
        shelves = await uow.session.scalars(
            insert(Shelf).returning(Shelf.id), [{"books": n} for n in range(3)]
        )
        assert shelves.all() == [2, 3, 4]
        [row] = await uow.connection.execute(
            text("UPDATE shelf_test__shelf SET books = 9 WHERE id = 2 RETURNING id, books")
        )
        assert tuple(row) == (2, 9)
        updated = await uow.connection.execute(text("UPDATE shelf_test__shelf SET books = 1"))
        assert updated.rowcount == 4
        inserted = await uow.connection.execute(insert(Shelf).values(books=5))
        assert inserted.inserted_primary_key == (5,)
        uow.session.add_all(new := [Book(shelf=1), Book(shelf=1)])
        await uow.session.flush()
        assert [book.id for book in new] == [1, 2]


async def test_a_cancelled_statement_ends_at_once(database: Database) -> None:
    """A cancellation interrupts the statement in its thread; the next unit can write."""
    started, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> int:
        loop.call_soon_threadsafe(started.set)
        return 1

    async def work() -> None:
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            await driver.create_function("started", 0, tell)
            await uow.session.execute(ENDLESS)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await put_a_book(UnitOfWorkFactory(database))
    assert await books(database) == 1
    assert database.pool_levels()["used"] == 0


@pytest.mark.parametrize("ends", ["cancelled", "terminated"])
async def test_a_statement_that_is_about_to_begin_ends_too(
    sqlite_database: URL,
    open_database: Callable[..., Database],
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    """SQLite forgets an interruption that comes before the statement has begun."""
    database = open_database(sqlite_database, exit_timeout=100)  # nothing else ends it
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("SELECT 1"))  # it is connected
    about: asyncio.Queue[SqliteConnection] = asyncio.Queue()
    loop, interrupted = asyncio.get_running_loop(), threading.Event()
    check, interrupt = SqliteConnection._refuse_writes, SqliteConnection.interrupt_until

    def wait(connection: SqliteConnection, opened: sqlite3.Connection) -> None:
        check(connection, opened)
        loop.call_soon_threadsafe(about.put_nowait, connection)
        interrupted.wait()

    def tell(connection: SqliteConnection, is_over: Callable[[], bool]) -> None:
        interrupt(connection, is_over)
        interrupted.set()

    async def work() -> None:
        async with UnitOfWork(database) as uow:
            monkeypatch.setattr(SqliteConnection, "_refuse_writes", wait)
            monkeypatch.setattr(SqliteConnection, "interrupt_until", tell)
            await uow.connection.execute(text(f"{ENDLESS}".replace("started()", "1")))

    task = asyncio.create_task(work())
    connection = await about.get()
    monkeypatch.setattr(SqliteConnection, "_refuse_writes", check)
    if ends == "cancelled":
        task.cancel()
    else:
        connection.stop()
    with pytest.raises((asyncio.CancelledError, OperationalError)):
        async with asyncio.timeout(20):
            await task
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("CREATE TABLE free (id INTEGER)"))


async def test_a_cancelled_unit_holds_no_lock_for_who_keeps_its_cursor(database: Database) -> None:
    """A statement that a traceback keeps of a dropped connection keeps no lock with it."""
    kept: list[object] = []
    with pytest.raises(asyncio.CancelledError):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            insert_one = "INSERT INTO shelf_test__book (shelf) VALUES (1) RETURNING id"
            kept.append(await driver.execute(insert_one))
            raise asyncio.CancelledError
    with closing(sqlite3.connect(str(database.engine.url.database), timeout=0)) as stranger:
        stranger.execute("UPDATE shelf_test__shelf SET books = 7")
        stranger.commit()
    assert kept
    assert await books(database) == 7


async def test_an_empty_end_crosses_nowhere(database: Database) -> None:
    """A session that was opened and not used neither connects nor begins."""
    async with UnitOfWork(database) as uow:
        assert uow.session.is_active
    assert database.pool_levels()["used"] == 0
    await put_a_book(UnitOfWorkFactory(database))


async def test_reading_units_do_not_wait_for_the_writer(database: Database) -> None:
    """While a unit writes, read-only units of other tasks read what was committed before."""
    seen: list[int] = []

    async def read() -> None:
        async with UnitOfWork(database, read_only=True) as uow:
            seen.append((await uow.session.scalars(select(Shelf.books))).one())

    async with UnitOfWork(database) as uow:
        (await uow.session.get_one(Shelf, 1)).books = 7
        await uow.session.flush()
        await asyncio.create_task(read())
    await read()
    assert seen == [0, 7]


async def test_a_savepoint_does_not_cure_what_failed_before_it(database: Database) -> None:
    """After a swallowed failure on the driver's lane there is no savepoint, as on PostgreSQL."""
    with pytest.raises(TransactionAbortedError):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            with suppress(sqlite3.IntegrityError):
                await driver.execute("INSERT INTO shelf_test__shelf (id, books) VALUES (1, 0)")
            with pytest.raises(OperationalError, match="a statement failed before this savepoint"):
                async with uow.savepoint():
                    uow.session.add(Shelf())
    await put_a_book(UnitOfWorkFactory(database))
    assert await books(database) == 1


@pytest.mark.parametrize("begin", ["savepoint x", "/* a */ SAVEPOINT x", "; Savepoint x"])
@pytest.mark.parametrize("core", [False, True], ids=["driver", "core"])
async def test_a_savepoint_in_any_spelling_does_not_cure_what_failed_before_it(
    database: Database, begin: str, core: bool
) -> None:
    """What failed before a savepoint is not undone by going back to it, however it is spelled."""
    unit = UnitOfWork(database)
    with pytest.raises(TransactionAbortedError):
        async with unit:
            driver = await unit.driver()
            with suppress(sqlite3.OperationalError):
                await driver.execute("INSERT INTO nowhere VALUES (1)")
            for sql in (begin, "ROLLBACK TO x"):
                with suppress(sqlite3.OperationalError, OperationalError):
                    if core:
                        await unit.connection.execute(text(sql))
                    else:
                        await driver.execute(sql)
    assert unit.state == "rolled_back"


@pytest.mark.parametrize("undo", ["rollback to x", "ROLLBACK TRANSACTION TO/**/SAVEPOINT x"])
async def test_a_savepoint_of_the_bare_driver_cures_what_failed_in_it(
    database: Database, undo: str
) -> None:
    """A part that failed on the driver's lane and was undone there leaves a unit that commits."""
    async with UnitOfWork(database) as uow:
        driver = await uow.driver()
        await driver.execute("SAVEPOINT x")
        with suppress(sqlite3.OperationalError):
            await driver.execute("INSERT INTO nowhere VALUES (1)")
        await driver.execute(undo)
        await driver.execute("INSERT INTO shelf_test__shelf (books) VALUES (7)")
    assert uow.state == "committed"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("PRAGMA busy_timeout", "waiting"),
        ("/* x */ pragma main . busy_timeout = 5", "waiting"),
        ("-- x\n;PRAGMA/**/'busy_timeout'(5)", "waiting"),
        ('PRAGMA "main"."busy_timeout"', "waiting"),
        ("PRAGMA busy_timeouts", ""),
        ("INSERT INTO t (busy_timeout) VALUES (5)", ""),
        ("SELECT 'PRAGMA busy_timeout'", "read"),
        ("PRAGMA read_uncommitted = 0", "level"),
        ("PRAGMA user_version = 1", ""),
        ("SAVEPOINT x", "savepoint"),
        ("INSERT INTO savepoint VALUES (1)", ""),
        ("ROLLBACK TO x", "undo"),
        ("rollback/**/transaction y to x", "undo"),
        ("ROLLBACK", ""),
        ("ROLLBACK TRANSACTION tox", ""),
        ("-- nothing", "read"),
        ("", "read"),
    ],
)
def test_what_a_statement_is(sql: str, expected: str) -> None:
    """Its first words decide, in any spelling, and nothing that stands further on."""
    assert kind(sql) == expected


async def test_an_engine_commits_no_failed_transaction(database: Database) -> None:
    """Also without a unit a transaction with a swallowed failure is rolled back, and told."""
    with pytest.raises(TransactionAbortedError):
        async with database.engine.begin() as connection:
            await connection.execute(insert(Shelf).values(books=7))
            with suppress(IntegrityError):
                await connection.execute(insert(Shelf).values(id=1))
    assert await books(database) == 0


async def test_a_refused_commit_leaves_nothing_to_the_next_unit(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """A constraint that is checked at COMMIT undoes its unit alone, as on PostgreSQL."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0)
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("CREATE TABLE p (id INTEGER PRIMARY KEY)"))
        await uow.connection.execute(
            text("CREATE TABLE c (p INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        )
    unit = UnitOfWork(database)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        async with unit:
            await unit.session.execute(text("INSERT INTO c VALUES (7)"))
    assert unit.state == "rolled_back"
    async with UnitOfWork(database) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM c")) == 0
        await uow.session.execute(text("INSERT INTO p VALUES (1)"))


async def test_a_failed_begin_is_no_failed_statement(
    database: Database, open_database: Callable[..., Database]
) -> None:
    """A lock that another program holds fails the unit, and the connection serves the next one."""
    impatient = open_database(database.engine.url, lock_timeout=0.01, pool_size=1)
    other = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            await put_a_book(UnitOfWorkFactory(impatient))
    await put_a_book(UnitOfWorkFactory(impatient))
    assert await books(database) == 1


async def test_the_drivers_lane_begins_with_its_first_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement on the driver's lane crosses to its thread twice: with BEGIN, for COMMIT."""
    crossings = 0
    cross = aiosqlite.Connection._execute

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal crossings
        crossings += 1
        return await cross(*args, **kwargs)  # type: ignore[no-untyped-call]  # untyped there

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    async with UnitOfWork(database) as uow:
        driver = await uow.driver()
        await driver.execute("INSERT INTO shelf_test__shelf (books) VALUES (1)")
    assert crossings == 2


@pytest.mark.parametrize("first", ["cancelled", "refused"])
async def test_whatever_became_of_the_first_statement_the_next_is_in_the_transaction(
    database: Database, first: str
) -> None:
    """After a first statement that was cancelled or refused, nothing is committed by itself."""
    with pytest.raises((ZeroDivisionError, TransactionAbortedError)):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            with suppress(TimeoutError, sqlite3.IntegrityError):
                async with asyncio.timeout(0 if first == "cancelled" else None):
                    await driver.execute("INSERT INTO shelf_test__shelf (id, books) VALUES (1, 1)")
            await driver.execute("INSERT INTO shelf_test__shelf (id, books) VALUES (2, 2)")
            raise ZeroDivisionError
    await put_a_book(UnitOfWorkFactory(database))
    assert await books(database) == 1
    async with UnitOfWork(database) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM shelf_test__shelf")) == 1


async def test_a_cancelled_connect_leaves_nothing_open(tmp_path: Path) -> None:
    """A file that is opened after its caller was cancelled is closed again in its thread."""
    opened: list[sqlite3.Connection] = []
    go = threading.Event()

    def connect() -> sqlite3.Connection:
        go.wait()
        opened.append(sqlite3.connect(tmp_path / "file", check_same_thread=False))
        return opened[0]

    connection = SqliteConnection(connect, read_only=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connection
    go.set()
    await asyncio.to_thread(connection._thread.join)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


async def test_a_cancelled_close_closes_all_the_same(tmp_path: Path) -> None:
    """Who is cancelled while it closes leaves the file closed and the thread ended."""
    connection = SqliteConnection(
        lambda: sqlite3.connect(tmp_path / "file", check_same_thread=False), read_only=False
    )
    await connection
    opened = connection._conn
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await connection.close()
    await asyncio.to_thread(connection._thread.join)
    assert connection.closed
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened.execute("SELECT 1")


async def test_a_statement_on_a_closed_connection_finds_it_lost(database: Database) -> None:
    """SQLAlchemy is told that the connection is gone, and connects anew for the next one."""
    async with database.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, SqliteConnection)
        await driver.close()
        with pytest.raises(OperationalError, match="no active connection") as caught:
            await connection.execute(text("SELECT 1"))
        assert caught.value.connection_invalidated
        await connection.rollback()
        assert await connection.scalar(text("SELECT 1")) == 1
