"""A SQLite database is a file that can be copied: after the stop, and through a unit that reads."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager import DatabasePlugin, UnitOfWorkFactory
from db_manager.database.database import Database
from db_manager.database.open_unit import ReadOnly
from db_manager.unit.uow import UnitOfWork
from lifecycle import Application

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
READ_ONLY: tuple[ReadOnly, ...] = (True, "snapshot")
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM note").fetchall()
print("read", flush=True)
sys.stdin.read()
"""


def rows(file: Path) -> int:
    """Return how many rows a copy of *file* alone has."""
    copy = shutil.copy(file, file.with_suffix(".copy"))
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute("SELECT count(*) FROM note").fetchone()[0])


async def make(factory: UnitOfWorkFactory) -> None:
    """Make a table with one row."""
    async with factory() as uow:
        await uow.session.execute(text("CREATE TABLE note AS SELECT 1 AS id"))


async def read(factory: UnitOfWorkFactory) -> None:
    """Read in each kind of unit that reads only."""
    for kind in READ_ONLY:
        async with factory(read_only=kind) as uow:
            await uow.session.execute(text("SELECT * FROM note"))


async def cancel(factory: UnitOfWorkFactory) -> None:
    """Cancel a unit in the middle of a statement."""

    async def endless() -> None:
        async with factory() as uow:
            await uow.session.execute(text("INSERT INTO note VALUES (2)"))
            await uow.session.execute(text(ENDLESS))

    task = asyncio.create_task(endless())
    await asyncio.wait([task], timeout=0.1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def nothing(_factory: UnitOfWorkFactory) -> None:
    """Do nothing."""


@pytest.mark.parametrize("more", [nothing, read, cancel])
async def test_after_a_stop_the_file_is_alone_and_complete(
    tmp_path: Path, more: Callable[[UnitOfWorkFactory], object]
) -> None:
    """Nothing stays beside it, whatever the bot did before."""
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "bot.sqlite3"
    async with Application([DatabasePlugin], config={"database": {"database": str(file)}}) as app:
        factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        await make(factory)
        await more(factory)  # type: ignore[misc]  # each is a coroutine function
    assert [left.name for left in folder.iterdir()] == ["bot.sqlite3"]
    assert rows(file) == 1


async def test_after_dispose_the_file_is_complete(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """The same for an engine that its owner disposes of."""
    database = open_database(sqlite_database)
    await make(UnitOfWorkFactory(database))
    await database.engine.dispose()
    file = Path(sqlite_database.database or "")
    assert not file.with_name("bot.sqlite3-wal").exists()
    assert rows(file) == 1


async def test_another_process_that_has_the_file_open_does_not_matter(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """The log stays, because the other one uses it, but everything is in the file."""
    database = open_database(sqlite_database)
    await make(UnitOfWorkFactory(database))
    file = Path(sqlite_database.database or "")
    with subprocess.Popen(  # noqa: ASYNC220 -- it is waited for on purpose
        [sys.executable, "-c", READER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"read\n"
        await database.engine.dispose()
        assert rows(file) == 1
        other.communicate()


async def test_vacuum_into_copies_without_a_unit(
    sqlite_database: URL, open_database: Callable[..., Database], tmp_path: Path
) -> None:
    """VACUUM INTO works on an AUTOCOMMIT connection of the engine, also while a unit writes."""
    database = open_database(sqlite_database, pool_timeout=0.5)
    await make(UnitOfWorkFactory(database))
    copy = tmp_path / "copy.sqlite3"
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("INSERT INTO note VALUES (2)"))
        async with database.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text("VACUUM INTO :copy"), {"copy": str(copy)})
    assert rows(copy) == 1


@pytest.mark.parametrize("first", [True, False], ids=["first", "after-a-write"])
async def test_backup_through_a_connection_that_writes_is_refused(
    sqlite_database: URL, open_database: Callable[..., Database], tmp_path: Path, *, first: bool
) -> None:
    """It is an error with the fix, at once, and the unit goes on; sqlite3 would never return."""
    database = open_database(sqlite_database)
    factory = UnitOfWorkFactory(database)
    await make(factory)
    async with aiosqlite.connect(tmp_path / "copy.sqlite3") as copy:
        async with factory() as uow:
            driver = await uow.driver()
            if not first:
                await driver.execute("INSERT INTO note VALUES (2)")
            with pytest.raises(sqlite3.OperationalError, match="read_only=True"):
                await driver.backup(copy)
            await driver.execute("INSERT INTO note VALUES (3)")
        for kind in READ_ONLY:
            async with factory(read_only=kind) as uow:
                await (await uow.driver()).backup(copy)
    assert rows(tmp_path / "copy.sqlite3") == (2 if first else 3)
