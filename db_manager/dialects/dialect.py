"""What we have to know of a database and of its driver, with defaults that suit any."""

import re
import socket
import ssl
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.meanings import Meanings
from db_manager.errors import ReadOnlyUnsupportedError

#: A driver gives up on an answer this many seconds after the server should have ended the
#: statement by itself.
ANSWER_MARGIN: Final = 5.0

#: What to do about a server that cannot be reached; the first that fits.
_UNREACHABLE: Final[tuple[tuple[type[OSError], str], ...]] = (
    (ssl.SSLError, "tls: the certificate is not trusted; name its CA with `tls_ca`"),
    (socket.gaierror, "host: the name does not resolve"),
    (TimeoutError, "host, port: no answer in time; is a firewall in between?"),
    (OSError, "host, port: connection refused; is the server running?"),
)


class Dialect(Meanings):
    """A database behind a driver; a subclass says where it differs from what suits any.

    It keeps nothing: one object serves every engine. What takes SQLAlchemy's connection runs
    inside a greenlet, unless it says otherwise. *driver* is the driver's own connection.
    """

    #: Release of the driver whose wait for COMMIT was read; see `db_manager.running.choose`.
    release: ClassVar[str] = ""
    #: Whether `is_closed` and `is_dead` know the truth, so that one lost line condemns no other.
    knows_lost_lines: ClassVar[bool] = False
    #: Whether there is a server, and so a password, TLS and a limit of connections.
    has_server: ClassVar[bool] = True
    #: Whether one unit writes at a time, and the next ones wait in our queue.
    has_one_writer: ClassVar[bool] = False
    #: Whether an engine of its own makes read-only units cheaper, and refuses their writes.
    has_reader: ClassVar[bool] = False
    #: Where the group `text` is found, a text, a comment or a quoted body may begin.
    literal: ClassVar[re.Pattern[str]] = re.compile(r"(?P<text>'|--|/\*|\$\w*\$)")

    # -- from the section [database] to an engine -----------------------------------------

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return what the driver's connect gets.

        Args:
            config: The section [database].
            url: Where the database is.
            tls: How to encrypt; None for clear text.
            read_only: Connections refuse to write.
        """
        del config, url, tls, read_only
        return {}

    def is_in_memory(self, url: URL) -> bool:
        """Return True for a database that lives in its connection and ends with it."""
        del url
        return False

    # -- a connection, without a round trip -----------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True when the connection is known to be gone, whoever uses it now."""
        return bool(getattr(driver, "closed", False))

    def is_dead(self, driver: Any) -> bool:
        """Return True when an idle connection is gone, or is still in somebody's transaction."""
        return self.is_closed(driver)

    def is_settled(self, driver: Any) -> bool:
        """Return True when the driver knows that a ROLLBACK would find nothing to undo."""
        del driver
        return False

    def is_half_done(self, driver: Any) -> bool:
        """Return True when the driver takes something of a unit that is over for unfinished."""
        del driver
        return False

    def hang_up(self, connection: Connection) -> None:
        """Drop the connection without another word, and free its place in the pool.

        Called outside of a greenlet, so that nobody waits for anything.

        Args:
            connection: One whose polite close did not end.
        """
        connection.invalidate()  # SQLAlchemy's adapter has a `terminate` that does not wait
        connection.close()

    # -- the transaction of a unit --------------------------------------------------------

    def begin(self, connection: Connection) -> Any:
        """Begin the transaction at the server now, and return the driver's connection.

        SQLAlchemy begins with the first statement that goes through it; a statement that goes
        past it must find the transaction begun.
        """
        if not connection.in_transaction():
            connection.begin()
        return connection.connection.driver_connection

    def is_autocommit(self, pooled: PoolProxiedConnection) -> bool:
        """Return True when each statement commits by itself; asks nobody."""
        return getattr(pooled.dbapi_connection, "autocommit", False) is True

    def ends(self, driver: Any) -> int:
        """Return how many transactions have ended on the connection, where it counts them."""
        return getattr(driver, "ends", 0)

    def implicit_commits(self, driver: Any) -> int | None:
        """Return how often a statement has committed what was before it; None if nobody counts."""
        del driver
        return 0

    def was_ended(self, adapter: Any, driver: Any, ends: int) -> bool:
        """Return True when the transaction of a unit is over before its COMMIT; asks nobody.

        Args:
            adapter: SQLAlchemy's connection of the driver; None when the line is lost.
            driver: The driver's own, as it was when the unit got it.
            ends: What `ends` was then.
        """
        del adapter
        return self.ends(driver) != ends

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Return True when a statement failed that went past SQLAlchemy, and undid the transaction.

        Where COMMIT itself says so, this need not ask.
        """
        del pooled, driver
        return False

    def transaction_id(self, pooled: PoolProxiedConnection) -> int | None:
        """Return the id by which the server knows the transaction later: 0 when it wrote nothing.

        None where there is no such id.
        """
        del pooled
        return None

    # -- units that read ------------------------------------------------------------------

    def begin_read_only(self, connection: Connection, level: str | None) -> None:
        """Give a unit one snapshot of the data, and let the server refuse writes.

        Args:
            connection: The connection of the unit.
            level: The isolation level asked for, or None.

        Raises:
            ReadOnlyUnsupportedError: We do not know how.
        """
        del level
        raise ReadOnlyUnsupportedError(connection.dialect.name)

    def end_read_only(self, driver: Any) -> None:
        """Make the next unit on the connection a usual one again."""

    def refuses_writes(self, driver: Any) -> bool:
        """Return False when somebody switched off that a connection for reading refuses writes."""
        del driver
        return True

    # -- creating tables ------------------------------------------------------------------

    def lock_schema(self, connection: Connection, seconds: int) -> None:
        """Let no other replica create tables until `unlock_schema`; wait for it so long."""

    def unlock_schema(self, connection: Connection) -> None:
        """Let the others create tables."""

    # -- what `db-manager check` tells ----------------------------------------------------

    #: Queries for the version of TLS, in the last column of a row, and for the server's clock.
    tls_query: ClassVar[str] = ""
    clock_query: ClassVar[str] = ""

    def place(self, url: URL) -> str:
        """Return where the database is, for people."""
        port = f":{url.port}" if url.port else ""
        role = f" as {url.username}" if url.username else ""
        return (
            f"{url.drivername}, {url.host or 'local socket'}{port}, database {url.database}{role}"
        )

    def file(self, url: URL) -> Path | None:
        """Return the file that the database is, or None."""
        del url
        return None

    def server(self, connection: Connection) -> str:
        """Return what answers, and its version."""
        version = connection.dialect.server_version_info or ()
        return f"{connection.dialect.name} {'.'.join(map(str, version))}"

    def most_connections(self, connection: Connection) -> int | None:
        """Return how many connections the server gives us at most, where it says so."""
        del connection
        return None

    def fix(self, error: BaseException) -> str | None:
        """Return what to do about a failed attempt to connect, if we know."""
        return next((fix for kind, fix in _UNREACHABLE if isinstance(error, kind)), None)

    # -- faults of tests ------------------------------------------------------------------

    #: Statements that let the server refuse the COMMIT of the transaction that they are in, by a
    #: check that is deferred to it, and a query that says whether that is impossible.
    refuse_commit: ClassVar[tuple[str, ...]] = ()
    is_read_only_query: ClassVar[str] = ""

    def backend(self, driver: Any) -> int:
        """Return the server's number of the process at the other end."""
        raise NotImplementedError


def scalar(connection: Connection, query: str) -> Any:
    """Return the first cell of what *query* finds."""
    return connection.execute(text(query)).scalar()
