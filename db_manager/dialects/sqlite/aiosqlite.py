"""SQLite with aiosqlite: a file, one writer at a time, no server."""

import asyncio
import re
import sqlite3
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Insert, Table
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_cursor
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from db_manager.config import DatabaseConfig
from db_manager.dialects.access import Access
from db_manager.dialects.dialect import Dialect, scalar
from db_manager.dialects.in_use import codes_of
from db_manager.dialects.sqlite.affinity import affinity
from db_manager.dialects.sqlite.connection import SqliteConnection, SqliteCursor
from db_manager.dialects.sqlite.copying import copy_database
from db_manager.dialects.sqlite.file import beside, connector, path_of
from db_manager.dialects.sqlite.sqlite_migration import SqliteMigration
from lifecycle.error_text import Told, of_sqlite

#: The log was written, but it is unknown whether it reached the disk.
_UNSURE: Final = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
#: Another connection holds the lock.
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: What SQLAlchemy's cursor awaits (private there, guarded by a test), and the steps of ours.
_STATEMENTS: Final = codes_of(
    AsyncAdapt_dbapi_cursor, "_execute_async", "_executemany_async"
) + codes_of(SqliteCursor, "__aenter__", "fetchall", "close")
#: Mask of the primary code in an extended result code.
_CODE: Final = 0xFF


class Aiosqlite(Dialect):
    """SQLite."""

    package = "sqlite3"
    releases = ("0.20", "0.21", "0.22")
    knows_lost_lines = True
    has_server = False
    has_one_writer = True
    has_reader = True
    factories = ("row_factory", "text_factory")
    beside_file = ("-wal", "-shm", "-journal")
    #: SQLite treats an unknown name in double quotes as a string, except where only a name is
    #: possible: next to a dot, and after these words.
    literal = re.compile(
        r"""(?: \. | \b(?:FROM|INTO|JOIN|UPDATE|TABLE)\s+ ) "[^"]*" | "[^"]*" (?=\.)
        | (?P<text> ' | " | -- | /\* )""",
        re.VERBOSE | re.IGNORECASE,
    )
    make_anew = "SQLite cannot alter that: make a new table, copy the rows, rename it"
    is_read_only_query = "PRAGMA query_only"
    refuse_commit: ClassVar[tuple[str, ...]] = (
        "CREATE TEMP TABLE refused_parent (id INTEGER PRIMARY KEY)",
        """CREATE TEMP TABLE refused_commit (
            id INTEGER REFERENCES refused_parent DEFERRABLE INITIALLY DEFERRED)""",
        "INSERT INTO temp.refused_commit VALUES (1)",
    )

    def upsert(self, table: Table, names: Sequence[str]) -> Insert:
        """Return an INSERT that changes the row with the same primary key, if it is there."""
        statement, key = insert(table), [column.name for column in table.primary_key]
        changed = {name: statement.excluded[name] for name in names or key[:1]}
        return statement.on_conflict_do_update(index_elements=key, set_=changed)

    #: A column of moments keeps seconds since the epoch.
    moment_now: ClassVar[str] = "((julianday('now') - 2440587.5) * 86400.0)"
    moment_in: ClassVar[str] = f"{moment_now} + {{seconds}}"

    def rows_of(self, parameter: str, columns: Mapping[str, str]) -> str:
        """Return SQL for the rows in *parameter*, a JSON array of objects."""
        values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        # LIMIT: else SQLite may read all of the JSON again for each row that it is joined to.
        return f"(SELECT {values} FROM json_each(:{parameter}) LIMIT -1) AS {parameter}"  # noqa: S608 -- names of ours

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return a function that opens the file with our connection class."""
        del tls
        name = url.database or ""

        async def connect(path: str, **arguments: Any) -> SqliteConnection:
            if name.startswith("file:") and not arguments.get("uri"):
                path = name  # SQLAlchemy has turned it into a file system path
            arguments = {"timeout": config.lock_timeout, **arguments}
            open_file = connector(path, synchronous=config.sqlite_synchronous, **arguments)
            connection = SqliteConnection(
                open_file, read_only=read_only, lock_timeout=arguments["timeout"]
            )
            # An open connection must not keep the process alive; with other drivers it does not.
            connection._thread.daemon = True  # noqa: SLF001 -- SQLAlchemy sets it as well
            async with asyncio.timeout(config.connect_timeout):
                return await connection  # type: ignore[return-value]  # it returns itself

        return {"async_creator_fn": connect}

    def is_in_memory(self, url: URL) -> bool:
        """Return True for a database that exists only in its connection."""
        name = url.database or ":memory:"
        return ":memory:" in name or "mode=memory" in name or url.query.get("mode") == "memory"

    def beside(self, url: URL, folder: Path) -> URL:
        """Return *url* with its file relative to *folder*."""
        return url if self.is_in_memory(url) else url.set(database=beside(url.database, folder))

    def line_up(self, driver: Any, line: Any) -> None:
        """Let *driver* wait in *line* before it writes outside of units."""
        if isinstance(driver, SqliteConnection):
            driver.line = line

    def lock_schema(self, connection: Connection) -> bool:
        """Take the write lock before looking what is missing; it is waited for as any lock is."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return True

    def stored_type(self, kind: TypeEngine[Any], sql: str) -> str | None:
        """Return what kind of value a column of this type keeps."""
        del kind
        return affinity(sql)

    def column_key(self, name: str) -> str:
        """Return *name* in lower case: names of columns that differ in case are the same."""
        return name.casefold()

    #: A table is altered by making it anew: with foreign keys on, dropping the old one would delete
    #: what refers to its rows (SQLite's documentation, ALTER TABLE, 7).
    migration_arguments: ClassVar[dict[str, Any]] = {"foreign_keys": "OFF"}

    migration = SqliteMigration

    def loosen(self, connection: Connection) -> str:
        """Switch foreign keys off."""
        before = scalar(connection, "PRAGMA foreign_keys")
        connection.commit()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        return f"PRAGMA foreign_keys = {before}"

    def complete(self, stock: Any) -> None:
        """Let the pool give a connection up, which SQLAlchemy before 2.0.46 cannot.

        Nor can a later one with aiosqlite before 0.22.1, whose own connection has no `stop`.
        """
        if not stock.has_terminate:
            stock.has_terminate = True
            stock.do_terminate = _terminate

    # -- a connection ---------------------------------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True if our connection is closed."""
        return isinstance(driver, SqliteConnection) and driver.closed

    is_dead = is_closed

    def is_settled(self, pooled: PoolProxiedConnection) -> bool:
        """Return True if nothing is open on our connection."""
        driver = pooled.driver_connection
        return isinstance(driver, SqliteConnection) and driver.is_settled()

    # -- the transaction ------------------------------------------------------------------

    def begin(self, connection: Connection, adapter: Any, driver: Any) -> None:
        """Begin together with the next statement, in one call to the driver's thread."""
        del adapter
        if isinstance(driver, SqliteConnection):
            driver.begin_with_next()
        else:
            connection.exec_driver_sql("SELECT 1")

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return True if neither we nor Python's driver begin transactions."""
        try:
            asked: Any = driver._conn if isinstance(driver, SqliteConnection) else adapter  # noqa: SLF001 -- what the adapter asks
            return getattr(asked, "isolation_level", "") is None
        except ValueError:  # it is closed
            return False

    def is_statement(self, awaited: Any) -> bool:
        """Return True for what SQLAlchemy's cursor awaits, and for the steps of ours."""
        return getattr(awaited, "cr_code", None) in _STATEMENTS

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Raise if the connection was closed, which rolled its transaction back.

        Raises:
            InterfaceError: It is closed; SQLAlchemy would silently skip its COMMIT.
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
        """Let the next transactions write again, if the connection may."""
        if isinstance(driver, SqliteConnection):
            driver.end_snapshots()

    async def back_up(self, engine: AsyncEngine, access: Access, target: Path, ending: str) -> None:
        """Copy the database with SQLite's backup API."""
        del access, ending
        await copy_database(engine, target)

    # -- errors ---------------------------------------------------------------------------

    def is_undone(self, error: Any) -> bool:
        """Return True if SQLite could not get a lock."""
        return _code(error) & _CODE in _BUSY

    def was_not_committed(self, error: Any) -> bool:
        """Return True unless the log may have reached the disk."""
        return _code(error) not in _UNSURE

    def tell(self, error: Any) -> Told:
        """Return the name and the code of *error*, as the journal does."""
        return of_sqlite(error)

    # -- for `db-manager check` -----------------------------------------------------------

    def place(self, url: URL) -> str:
        """Return the driver and the file."""
        return f"{url.drivername}, {self.file(url) or ':memory:'}"

    def file(self, url: URL) -> Path | None:
        """Return the file of the database, or None if it is in memory."""
        name = url.database
        return None if self.is_in_memory(url) or not name else path_of(name).absolute()

    def server(self, connection: Connection) -> str:
        """Return the version of the library, and the journal mode."""
        version = scalar(connection, "SELECT sqlite_version()")
        return f"SQLite {version}, journal mode {scalar(connection, 'PRAGMA journal_mode')}"

    def fix(self, error: BaseException) -> str | None:
        """Return advice on a file that cannot be opened."""
        del error
        return "is the file a SQLite database, and may this account read and write it?"


def _terminate(adapter: Any) -> None:
    """Close a connection, if need be without waiting: the garbage collector may be the caller."""
    driver = adapter.driver_connection
    if not isinstance(driver, SqliteConnection):
        adapter.close()
        return
    closing = driver.stop()
    if closing is not None and in_greenlet():
        await_only(asyncio.shield(closing))


def _code(error: Any) -> int:
    return getattr(error, "sqlite_errorcode", 0) or 0
