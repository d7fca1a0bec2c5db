"""Copies a SQLite database into a file while others write, with SQLite's backup API.

The copy reads one snapshot from its first page to its last. So a commit of somebody else neither
waits for it nor makes it begin again, as it would without a transaction.
"""

import sqlite3
from pathlib import Path
from threading import Event
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.dialects.sqlite.connection import SqliteConnection
from lifecycle.threads import to_its_end

#: Pages between two looks whether the copy is still wanted: 4 MB.
_PAGES: Final = 1000
#: Reads the file, so that the snapshot begins.
_FIRST_READ: Final = text("SELECT count(*) FROM sqlite_master")
_NAME: Final = "db_manager backup"


class _UnwantedError(Exception):
    """The caller was cancelled."""


async def copy_database(engine: AsyncEngine, target: Path) -> None:
    """Copy the database of *engine* into the file *target*, on one of its connections.

    Args:
        engine: The engine.
        target: An empty file; after an error it has a part of the copy, or nothing.

    Raises:
        Error: SQLite refuses to read or to write.
    """
    unwanted = Event()
    copy = sqlite3.connect(target, check_same_thread=False)  # the file is opened at its first use
    try:
        # A part of a copy is of no use, so it needs no journal that would bring it back.
        await to_its_end(lambda: copy.execute("PRAGMA journal_mode = OFF").close(), _NAME)
        async with engine.connect() as connection:
            try:
                await _copy(connection, copy, unwanted)
            finally:
                unwanted.set()
        # The copy says of itself that it has a log; alone, it is to open from any medium.
        await to_its_end(lambda: copy.execute("PRAGMA journal_mode = DELETE").close(), _NAME)
    finally:
        await to_its_end(copy.close, _NAME)


async def _copy(connection: AsyncConnection, copy: sqlite3.Connection, unwanted: Event) -> None:
    def look(_status: int, _remaining: int, _pages: int) -> None:
        if unwanted.is_set():
            raise _UnwantedError

    driver: Any = (await connection.get_raw_connection()).driver_connection
    ours = isinstance(driver, SqliteConnection)
    if ours:
        driver.begin_snapshot()
    else:
        await driver.execute("BEGIN")
    try:
        await connection.execute(_FIRST_READ)
        await driver.backup(copy, pages=_PAGES, progress=look)
    finally:
        if ours:
            driver.end_snapshots()
