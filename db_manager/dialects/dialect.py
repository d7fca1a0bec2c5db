"""The base of all dialects: what is specific to a database and driver, with safe defaults."""

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Insert, Table, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.access import Access
from db_manager.dialects.for_commands import ForCommands
from db_manager.dialects.in_change import InChange
from db_manager.dialects.in_use import InUse
from db_manager.errors import BackupError, ReadOnlyUnsupportedError

#: Seconds after `statement_timeout`, at which the server ends the statement itself, until the
#: driver stops waiting for an answer.
ANSWER_MARGIN: Final = 5.0

#: Advice for a server that cannot be reached; the first match applies.
_UNREACHABLE: Final[tuple[tuple[type[OSError], str], ...]] = (
    (ssl.SSLError, "tls: the certificate is not trusted; name its CA with `tls_ca`"),
    (socket.gaierror, "host: the name does not resolve"),
    (TimeoutError, "host, port: no answer in time; is a firewall blocking it?"),
    (OSError, "host, port: connection refused; is the server running?"),
)


class Dialect(InUse, InChange, ForCommands):
    """A database and its driver; a subclass overrides what differs from the defaults.

    It has no state: one object serves every engine. Methods that take SQLAlchemy's connection run
    inside a greenlet, unless they say otherwise. *driver* is the driver's own connection.
    """

    #: Releases of the driver whose COMMIT was reviewed; see `db_manager.running.choose`.
    releases: ClassVar[tuple[str, ...]] = ()
    #: Whether `is_closed` and `is_dead` detect a lost connection, so that the loss of one says
    #: nothing about the others.
    knows_lost_lines: ClassVar[bool] = False
    #: Whether there is a server, and therefore a password, TLS and a limit on connections.
    has_server: ClassVar[bool] = True
    #: Whether only one unit writes at a time, so that the others wait in our queue.
    has_one_writer: ClassVar[bool] = False
    #: Whether read-only units get a separate engine, which is cheaper and refuses writes.
    has_reader: ClassVar[bool] = False
    #: Its group `text` matches where a string literal, a comment or a quoted body may begin.
    literal: ClassVar[re.Pattern[str]] = re.compile(r"(?P<text>'|--|/\*|\$\w*\$)")

    # -- from the section [database] to an engine -----------------------------------------

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return the arguments for the driver's connect.

        Args:
            config: The section [database].
            url: Where the database is.
            tls: The TLS context; None for clear text.
            read_only: Connections refuse writes.
        """
        del config, url, tls, read_only
        return {}

    def is_in_memory(self, url: URL) -> bool:
        """Return True for a database that exists only in its connection."""
        del url
        return False

    def beside(self, url: URL, folder: Path) -> URL:
        """Return *url* with its path, if it is one of a file, relative to *folder*.

        Args:
            url: Where the database is.
            folder: The folder of config.toml.

        Raises:
            ConfigError: The file is where a relative path used to lead, in the working directory.
        """
        del folder
        return url

    def line_up(self, driver: Any, line: Any) -> None:
        """Let *driver* wait in *line* before it writes outside of units, if one writes at a time.

        Args:
            driver: The driver's own connection, just opened.
            line: The `OneWriter` of its engine.
        """

    def complete(self, stock: Any) -> None:
        """Add to SQLAlchemy's own dialect what older releases of it, or of the driver, lack.

        Args:
            stock: The dialect of one engine; no other engine has the same object.
        """

    # -- units that read ------------------------------------------------------------------

    def begin_read_only(self, connection: Connection, level: str | None) -> None:
        """Give a unit a snapshot of the data, and make the server refuse writes.

        Args:
            connection: The connection of the unit.
            level: The requested isolation level, or None.

        Raises:
            ReadOnlyUnsupportedError: Not supported on this database.
        """
        del level
        raise ReadOnlyUnsupportedError(connection.dialect.name)

    def end_read_only(self, driver: Any) -> None:
        """Undo `begin_read_only`, so that the next unit on the connection may write."""

    def refuses_writes(self, driver: Any) -> bool:
        """Return False if a read-only connection does not refuse writes any more."""
        del driver
        return True

    # -- rows that may be there -----------------------------------------------------------

    def upsert(self, table: Table, names: Sequence[str]) -> Insert:
        """Return an INSERT that changes the row with the same primary key, if it is there.

        Args:
            table: The table.
            names: The columns that it changes then; the row is locked in any case.

        Raises:
            NotImplementedError: Not supported on this database.
        """
        del names
        # MariaDB has none on purpose: texts that differ in case are equal there, and so are keys.
        raise NotImplementedError(f"no upsert of {table.name} is known for this database")

    # -- tables that are queues, in SQL ---------------------------------------------------

    #: The moment of the statement, as a column of moments keeps it; empty where it is not known.
    moment_now: ClassVar[str] = ""
    #: A moment of so many seconds since the epoch, one that comes in so many seconds, and the
    #: seconds between two moments.
    moment_at: ClassVar[str] = "{seconds}"
    moment_in: ClassVar[str] = ""
    seconds_between: ClassVar[str] = "({end} - {begin})"
    #: Whether a statement sees what was committed since the transaction began.
    sees_commits: ClassVar[str] = "TRUE"
    #: A query for the settings, with their values, by which a crash loses what was committed.
    unsafe_settings: ClassVar[str] = ""
    #: Name of the function that makes a JSON object of names and values.
    json_object: ClassVar[str] = "json_object"
    #: At the end of a SELECT: lock its rows, but for those that are locked.
    lock_free_ones: ClassVar[str] = ""

    def rows_of(self, parameter: str, columns: Mapping[str, str]) -> str:
        """Return SQL for the rows in *parameter*, a JSON array of objects, to stand after FROM.

        Args:
            parameter: Its name.
            columns: Keys of the objects, and PostgreSQL's types of their values.

        Raises:
            NotImplementedError: Not supported on this database.
        """
        del columns
        # Nor has MariaDB this: it keeps no queues, for the same reason, and `moment_now` says so.
        raise NotImplementedError(f"no table of {parameter} is known for this database")

    # -- where it is, and why it cannot be reached ----------------------------------------

    def place(self, url: URL) -> str:
        """Return a readable description of where the database is."""
        port = f":{url.port}" if url.port else ""
        role = f" as {url.username}" if url.username else ""
        return (
            f"{url.drivername}, {url.host or 'local socket'}{port}, database {url.database}{role}"
        )

    #: Endings of the files beside the file of a database, which hold a part of it.
    beside_file: ClassVar[tuple[str, ...]] = ()

    def file(self, url: URL) -> Path | None:
        """Return the file of the database, or None."""
        del url
        return None

    def fix(self, error: BaseException) -> str | None:
        """Return advice on a failed attempt to connect, or None.

        In it `{prefix}` stands for the prefix of the section's environment variables.
        """
        return next((fix for kind, fix in _UNREACHABLE if isinstance(error, kind)), None)

    # -- backups --------------------------------------------------------------------------

    #: What to use where we make no backups.
    dump_program: ClassVar[str] = "the program of its server"

    async def back_up(self, engine: AsyncEngine, access: Access, target: Path, ending: str) -> None:
        """Copy the database of *engine* into the empty file *target*, as it is at one moment.

        Args:
            engine: The engine.
            access: How another program reaches the database.
            target: The file.
            ending: The ending of the name that it gets.

        Raises:
            BackupError: Not supported on this database.
        """
        del access, target, ending
        raise BackupError(
            f"db_manager makes no backups of {engine.dialect.name}; use {self.dump_program}"
        )

    # -- for injected faults of tests -----------------------------------------------------

    #: Statements that make the server refuse the COMMIT of their transaction, with a check that is
    #: deferred to COMMIT; and a query that returns true where a read-only transaction prevents it.
    refuse_commit: ClassVar[tuple[str, ...]] = ()
    is_read_only_query: ClassVar[str] = ""

    def backend(self, driver: Any) -> int | None:
        """Return the process id of the connection's backend, which PostgreSQL can terminate."""
        del driver
        return None


def answer_timeout(config: DatabaseConfig) -> float:
    """Return the longest wait of a driver for an answer, in seconds.

    Args:
        config: The section [database].
    """
    return config.statement_timeout + ANSWER_MARGIN


def scalar(connection: Connection, query: str) -> Any:
    """Return the first column of the first row of *query*."""
    return connection.execute(text(query)).scalar()
