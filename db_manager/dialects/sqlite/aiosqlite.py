"""SQLite by aiosqlite: a file, one writer at a time, no server."""

import asyncio
import re
import sqlite3
import ssl
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import Dialect, scalar
from db_manager.dialects.sqlite.connection import SqliteConnection
from db_manager.dialects.sqlite.file import connector
from lifecycle.error_text import Told, of_sqlite

#: The log was written, and nobody knows whether it is on the disk.
_UNSURE: Final = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
#: Somebody else has the lock.
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: The part of an extended code that is the code.
_CODE: Final = 0xFF


class Aiosqlite(Dialect):
    """SQLite."""

    package = "sqlite3"
    release = "0.22"
    knows_lost_lines = True
    has_server = False
    has_one_writer = True
    has_reader = True
    factories = ("row_factory", "text_factory")
    #: SQLite takes a name in double quotes that it does not know for a text; not where only a name
    #: may stand: before or behind a dot, and behind these words.
    literal = re.compile(
        r"""(?: \. | \b(?:FROM|INTO|JOIN|UPDATE|TABLE)\s+ ) "[^"]*" | "[^"]*" (?=\.)
        | (?P<text> ' | " | -- | /\* )""",
        re.VERBOSE | re.IGNORECASE,
    )
    is_read_only_query = "PRAGMA query_only"
    refuse_commit: ClassVar[tuple[str, ...]] = (
        "CREATE TEMP TABLE refused_parent (id INTEGER PRIMARY KEY)",
        """CREATE TEMP TABLE refused_commit (
            id INTEGER REFERENCES refused_parent DEFERRABLE INITIALLY DEFERRED)""",
        "INSERT INTO temp.refused_commit VALUES (1)",
    )

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return what opens the file with our connection."""
        del tls
        name = url.database or ""

        async def connect(path: str, **arguments: Any) -> SqliteConnection:
            if name.startswith("file:") and not arguments.get("uri"):
                path = name  # SQLAlchemy made a path of the file system of it
            arguments = {"timeout": config.lock_timeout, **arguments}
            open_file = connector(path, synchronous=config.sqlite_synchronous, **arguments)
            connection = SqliteConnection(
                open_file, read_only=read_only, lock_timeout=arguments["timeout"]
            )
            # The process may end while a connection is open, as it may with every other driver.
            connection._thread.daemon = True  # noqa: SLF001 -- what SQLAlchemy itself sets
            async with asyncio.timeout(config.connect_timeout):
                return await connection  # type: ignore[return-value]  # it returns itself

        return {"async_creator_fn": connect}

    def is_in_memory(self, url: URL) -> bool:
        """Return True for a database that lives in its connection and ends with it."""
        name = url.database or ":memory:"
        return ":memory:" in name or "mode=memory" in name or url.query.get("mode") == "memory"

    # -- a connection ---------------------------------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True when nothing can be executed any more."""
        return isinstance(driver, SqliteConnection) and driver.closed

    def is_settled(self, pooled: PoolProxiedConnection) -> bool:
        """Return True when nothing is open on our connection."""
        driver = pooled.driver_connection
        return isinstance(driver, SqliteConnection) and driver.is_settled()

    # -- the transaction ------------------------------------------------------------------

    def begin(self, connection: Connection, adapter: Any, driver: Any) -> None:
        """Begin with the next statement, in the same crossing to the driver's thread."""
        del adapter
        if isinstance(driver, SqliteConnection):
            driver.begin_with_next()
        else:
            connection.exec_driver_sql("SELECT 1")

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return True when neither we nor Python's driver begin transactions."""
        if isinstance(driver, SqliteConnection):
            return driver.begins_nothing
        try:
            return getattr(adapter, "isolation_level", "") is None
        except ValueError:  # it is closed
            return False

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Raise when somebody closed the connection, which undid its transaction.

        Raises:
            InterfaceError: It is closed; SQLAlchemy would skip its COMMIT in silence.
        """
        del pooled
        if self.is_closed(driver):
            raise sqlite3.InterfaceError("the connection is closed")
        return False

    def begin_read_only(self, connection: Connection, level: str | None) -> None:
        """Begin a read-only transaction with the next statement."""
        driver = connection.connection.driver_connection
        if not isinstance(driver, SqliteConnection):
            super().begin_read_only(connection, level)
        else:
            driver.begin_snapshot()

    def end_read_only(self, driver: Any) -> None:
        """Make the next transactions usual ones again."""
        if isinstance(driver, SqliteConnection):
            driver.end_snapshots()

    # -- errors ---------------------------------------------------------------------------

    def is_undone(self, error: Any) -> bool:
        """Return True when SQLite could not get a lock."""
        return _code(error) & _CODE in _BUSY

    def was_not_committed(self, error: Any) -> bool:
        """Return True unless the log may be on the disk."""
        return _code(error) not in _UNSURE

    def tell(self, error: Any) -> Told:
        """Return the code of *error*, as the journal tells it."""
        return of_sqlite(error)

    # -- what `db-manager check` tells ----------------------------------------------------

    def place(self, url: URL) -> str:
        """Return the driver and the file."""
        return f"{url.drivername}, {self.file(url) or ':memory:'}"

    def file(self, url: URL) -> Path | None:
        """Return the file that the database is, or None when it is in memory."""
        name = url.database
        return None if self.is_in_memory(url) or not name else Path(name).absolute()

    def server(self, connection: Connection) -> str:
        """Return the version of the library, and how it writes."""
        version = scalar(connection, "SELECT sqlite_version()")
        return f"SQLite {version}, journal mode {scalar(connection, 'PRAGMA journal_mode')}"

    def fix(self, error: BaseException) -> str | None:
        """Return the one thing that is wrong when a file cannot be opened."""
        del error
        return "is the file a SQLite database, and may this account read and write it?"


def _code(error: Any) -> int:
    return getattr(error, "sqlite_errorcode", 0) or 0
