"""Waiting for the lock that another process has on a SQLite file: patient, and easily ended."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from db_manager.database.database import Database
from db_manager.dialects.sqlite.locks import SLICE
from db_manager.unit.uow import UnitOfWork

Open = Callable[..., Database]

INSERT = text("INSERT INTO t VALUES (1)")
#: Says that it holds the lock, and lets go of it, or ends, when it is told.
HOLDER = """
import sqlite3, sys
path, *statements = sys.argv[1:]
connection = sqlite3.connect(path, isolation_level=None)
for statement in statements:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.readline()
connection.close()
"""
#: Seconds in which a wait ends after it was cancelled.
PROMISED = 0.1
#: What a loaded machine adds to it; SQLite by itself would wait for `lock_timeout`.
GRACE = 1.0


class Holder:
    """Another process that holds a lock."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, path: str, *statements: str) -> "Holder":
        """Return one that has said *statements* in *path* and holds what they lock."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, path, *statements, stdin=pipe, stdout=pipe
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        return cls(process)

    async def end(self) -> None:
        """Let go, and wait until it has."""
        if self._process.returncode is None:
            await self._process.communicate(b"\n")


@pytest.fixture
async def path(sqlite_database: URL) -> str:
    """Path of a file with one table, in WAL mode."""
    path = str(sqlite_database.database)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (id INTEGER)")
    return path


@pytest.fixture
async def writer(path: str) -> AsyncIterator[Holder]:
    """Another process that holds the write lock."""
    holder = await Holder.start(path, "BEGIN IMMEDIATE")
    yield holder
    await holder.end()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until *condition* holds: what happens in a thread tells nobody."""
    while not condition():  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0)


async def waiting(database: Database) -> None:
    """Return when a statement of *database* has met a lock, which its driver's thread waits for."""
    [unit] = database.open.values()

    def crosses() -> bool:
        connection = unit.checked_out
        driver: Any = connection.connection.driver_connection if connection is not None else None
        return driver is not None and driver.still_wanted is not None

    await until(crosses)


async def insert(database: Database, lane: str) -> None:
    """Write one row on *lane*."""
    async with UnitOfWork(database) as uow:
        if lane == "session":
            await uow.session.execute(INSERT)
        elif lane == "connection":
            await uow.connection.execute(INSERT)
        elif lane == "driver":
            await (await uow.driver()).execute("INSERT INTO t VALUES (1)")
        elif lane == "function":
            await (await uow.driver()).create_function("nothing", 0, int)
        else:
            await (await uow.driver()).executemany("INSERT INTO t VALUES (?)", [(1,)])


@pytest.mark.parametrize("lane", ["session", "connection", "driver", "function", "many"])
async def test_a_wait_for_another_process_ends_when_it_is_cancelled(
    sqlite_database: URL, open_database: Open, writer: Holder, lane: str
) -> None:
    """A unit that waits for a write lock is over within 0.1 s, and the next one is served."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0, lock_timeout=30)
    async with UnitOfWork(database, read_only=True):
        pass
    task = asyncio.create_task(insert(database, lane))
    await asyncio.sleep(0)
    await waiting(database)
    began = time.monotonic()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert time.monotonic() - began < PROMISED + GRACE
    assert database.pool_levels()["used"] == 0
    await writer.end()
    await insert(database, lane)


async def test_the_queue_of_writers_goes_on_when_one_is_cancelled(
    sqlite_database: URL, open_database: Open, writer: Holder
) -> None:
    """Those behind a unit that was cancelled while it waited for a lock get it, each."""
    database = open_database(sqlite_database, lock_timeout=30, pool_timeout=30)
    tasks = [asyncio.create_task(insert(database, "session")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    await writer.end()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False, True, False, False]
    async with UnitOfWork(database, read_only=True) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 3


@pytest.mark.parametrize("lane", ["session", "driver", "many"])
async def test_a_lock_that_goes_is_waited_for(
    sqlite_database: URL, open_database: Open, writer: Holder, lane: str
) -> None:
    """A unit that finds a lock writes once it is gone, and once only."""
    database = open_database(sqlite_database, lock_timeout=30)
    task = asyncio.create_task(insert(database, lane))
    await asyncio.sleep(4 * SLICE)  # several slices long
    assert not task.done()
    await writer.end()
    await task
    async with UnitOfWork(database, read_only=True) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 1


@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.3])
@pytest.mark.parametrize("how", ["lock_timeout", "connect_args", "pragma", "on_connect"])
async def test_a_wait_is_as_long_as_it_was_told(
    sqlite_database: URL, open_database: Open, writer: Holder, how: str, seconds: float
) -> None:
    """`lock_timeout`, sqlite3's `timeout` and `PRAGMA busy_timeout` mean what they say."""
    keys: dict[str, Any] = {"lock_timeout": 30}
    if how == "lock_timeout":
        keys["lock_timeout"] = seconds
    elif how == "connect_args":
        keys["connect_args"] = {"timeout": seconds}
    database = open_database(sqlite_database, pool_size=1, max_overflow=0, **keys)
    pragma = f"PRAGMA busy_timeout = {int(seconds * 1000)}"
    if how == "on_connect":

        @event.listens_for(database.engine.sync_engine, "connect")
        def say(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            cursor.execute(pragma)
            cursor.close()

    if how == "pragma":
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(pragma))
            assert await connection.scalar(text("PRAGMA busy_timeout")) == int(seconds * 1000)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="locked"):
        await insert(database, "session")
    assert seconds * 0.9 <= time.monotonic() - began < seconds + 2 * SLICE + GRACE
    await writer.end()
    await insert(database, "session")


async def test_the_driver_is_told_how_long_it_waits(
    sqlite_database: URL, open_database: Open
) -> None:
    """On the driver's lane `busy_timeout` reads as it was set, and not as a slice."""
    database = open_database(sqlite_database, lock_timeout=7)
    async with UnitOfWork(database) as uow:
        driver = await uow.driver()
        for milliseconds in (7000, 90000, 20, 0):
            if milliseconds != 7000:
                await driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
            cursor = await driver.execute("PRAGMA busy_timeout")
            assert await cursor.fetchone() == (milliseconds,)


async def test_a_script_waits_as_a_whole(
    sqlite_database: URL, open_database: Open, writer: Holder
) -> None:
    """A script of several statements that meets a lock waits there, and runs none of them twice."""
    database = open_database(sqlite_database, lock_timeout=30)

    async def work() -> None:
        async with UnitOfWork(database, read_only=True) as uow:
            driver = await uow.driver()
            await driver.executescript(
                "PRAGMA query_only = 0; CREATE TEMP TABLE once (id UNIQUE);"
                "INSERT INTO once VALUES (1); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);"
            )

    task = asyncio.create_task(work())
    await asyncio.sleep(2 * SLICE)
    await writer.end()
    await task
    async with UnitOfWork(database, read_only=True) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 2


@pytest.fixture
async def without_wal(sqlite_database: URL, open_database: Open) -> Database:
    """A database with a rollback journal, whose COMMIT waits for readers; it has a connection."""
    with closing(sqlite3.connect(str(sqlite_database.database))) as raw:
        raw.execute("CREATE TABLE t (id INTEGER)")
    keys = {"pool_size": 1, "max_overflow": 0, "exit_timeout": 20, "lock_timeout": 1}
    database = open_database(sqlite_database, **keys)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        assert await connection.scalar(text("PRAGMA journal_mode = DELETE")) == "delete"
    return database


@pytest.mark.parametrize("patient", [True, False])
async def test_a_commit_that_waits_for_readers(without_wal: Database, patient: bool) -> None:
    """COMMIT is made when the readers are done; where it has no patience, nothing is written."""
    reader = await Holder.start(str(without_wal.engine.url.database), "BEGIN", "SELECT * FROM t")
    unit = UnitOfWork(without_wal)

    async def work() -> None:
        async with unit:
            await unit.session.execute(INSERT)

    task = asyncio.create_task(work())
    await until(lambda: unit.state == "committing")
    if patient:
        await asyncio.sleep(4 * SLICE)
        assert unit.state == "committing"
        await reader.end()
        await task
        assert unit.state == "committed"
    else:
        await asyncio.wait({task})
        assert "locked" in str(task.exception())
        assert unit.state == "rolled_back"
        await reader.end()
    async with UnitOfWork(without_wal) as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == int(patient)


async def test_two_that_wait_for_each_other_are_told_at_once(
    sqlite_database: URL, open_database: Open, path: str
) -> None:
    """Where SQLite does not wait because it could not help, nothing waits for `lock_timeout`."""
    database = open_database(sqlite_database, lock_timeout=30)
    async with database.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.execute("BEGIN")
        await (await driver.execute("SELECT * FROM t")).fetchall()
        other = await Holder.start(path, "INSERT INTO t VALUES (1)")
        await other.end()
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await driver.execute("INSERT INTO t VALUES (2)")
        assert time.monotonic() - began < GRACE


@pytest.mark.parametrize("lane", ["connection", "cursor"])
async def test_no_row_of_an_iterator_is_lost_in_a_wait(
    sqlite_database: URL, open_database: Open, tmp_path: Path, lane: str
) -> None:
    """What was taken from an iterator before a lock was met is written as well."""
    other = str(tmp_path / "other")
    holder = await Holder.start(other, "CREATE TABLE o (id INTEGER)", "BEGIN IMMEDIATE")
    database = open_database(sqlite_database, lock_timeout=30)
    loop, taken = asyncio.get_running_loop(), asyncio.Event()

    def numbers() -> Iterator[tuple[int]]:
        for number in range(5):
            loop.call_soon_threadsafe(taken.set)
            yield (number,)

    async def write() -> list[int]:
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            await driver.execute(f"ATTACH '{other}' AS other")
            at = driver if lane == "connection" else driver.cursor()
            await at.executemany("INSERT INTO o VALUES (?)", numbers())
            return [row[0] for row in await driver.execute_fetchall("SELECT id FROM o")]

    task = asyncio.create_task(write())
    await taken.wait()
    await asyncio.sleep(3 * SLICE)
    await holder.end()
    assert await task == [0, 1, 2, 3, 4]


class Contended(list[tuple[int]]):
    """Rows, after the first of which another process has the lock, the first time only."""

    def __init__(self, path: str) -> None:
        super().__init__([(1,), (2,)])
        self._other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def __iter__(self) -> Iterator[tuple[int]]:
        """Yield the rows."""
        if self._other.in_transaction:
            self._other.execute("ROLLBACK")
            yield from super().__iter__()
            return
        yield self[0]
        self._other.execute("BEGIN IMMEDIATE")
        yield self[1]

    def close(self) -> None:
        """Let go of the lock."""
        self._other.close()


async def test_no_row_is_written_twice_because_of_a_wait(
    sqlite_database: URL, open_database: Open, path: str
) -> None:
    """Many rows that commit themselves are not begun anew when a later one meets a lock."""
    database = open_database(sqlite_database, lock_timeout=30)
    with closing(Contended(path)) as rows:
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await driver.executemany("INSERT INTO t VALUES (?)", rows)
    async with UnitOfWork(database) as uow:
        assert (await uow.session.scalars(text("SELECT id FROM t"))).all() == [1]


async def test_a_file_that_is_not_in_wal_mode_yet_is_waited_for(
    sqlite_database: URL, open_database: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses at once to switch a file to WAL while it is written: the switch is repeated.

    Of eight processes that started on a new file, 1 % failed so.
    """
    with closing(sqlite3.connect(str(sqlite_database.database))) as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    holder = await Holder.start(str(sqlite_database.database), "BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()

    def pause(_seconds: float) -> None:
        asyncio.run_coroutine_threadsafe(holder.end(), loop).result()

    monkeypatch.setattr("db_manager.dialects.sqlite.locks.time.sleep", pause)
    database = open_database(sqlite_database)
    async with database.engine.connect() as connected:
        assert await connected.scalar(text("PRAGMA journal_mode")) == "wal"


async def test_a_connect_that_waits_for_a_lock_is_cancelled(
    sqlite_database: URL, open_database: Open, path: str
) -> None:
    """Opening a file that another process holds alone ends with its task, thread and all."""
    exclusive = await Holder.start(
        path, "PRAGMA journal_mode = DELETE", "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"
    )
    database = open_database(sqlite_database, lock_timeout=30, connect_timeout=30)
    task = asyncio.create_task(insert(database, "session"))
    await asyncio.sleep(3 * SLICE)
    began = time.monotonic()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert time.monotonic() - began < PROMISED + GRACE
    await exclusive.end()
    await insert(database, "session")


@pytest.mark.usefixtures("writer")
async def test_the_end_of_the_database_does_not_wait_for_a_lock(
    sqlite_database: URL, open_database: Open
) -> None:
    """A connection that is closed from outside gives its wait up."""
    database = open_database(sqlite_database, lock_timeout=30)
    task = asyncio.create_task(insert(database, "session"))
    await asyncio.sleep(0)
    await waiting(database)
    [unit] = database.open.values()
    assert unit.checked_out is not None
    driver: Any = unit.checked_out.connection.driver_connection
    began = time.monotonic()
    await driver.close()
    assert time.monotonic() - began < PROMISED + GRACE
    await asyncio.wait({task})
    assert isinstance(task.exception(), OperationalError)
