"""MariaDB and MySQL with any driver."""

import re
import ssl
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.types import TypeEngine

from db_manager.config import LONGEST, DatabaseConfig
from db_manager.dialects.dialect import Dialect, scalar
from db_manager.dialects.mysql.column_types import stored_type
from db_manager.dialects.mysql.mysql_migration import MySQLMigration
from lifecycle.error_text import Told

#: Lock wait timeout, deadlock, record changed since last read.
UNDONE: Final = frozenset({1020, 1205, 1213})
#: Too many connections, shutdown in progress, cannot connect.
UNAVAILABLE: Final = frozenset({1040, 1053, 2002, 2003})
#: The connection is lost.
LOST: Final = frozenset({2006, 2013, 2055})
#: KILL QUERY: the statement was ended on purpose, and the connection remains usable. For a COMMIT
#: it does not tell whether the commit had completed.
_KILLED: Final = 1317
#: Client errors have numbers from 2000 to 2999: there was no answer.
_CLIENT: Final = 2
#: Name of the lock for creating tables. Names are the server's, and have at most 64 characters.
LOCK: Final = "concat('db_manager.', sha1(database()))"


class MySQL(Dialect):
    """MariaDB or MySQL with an unknown driver."""

    literal = re.compile(r"(?P<text>'|\"|--|/\*|#)")
    tls_query = "SHOW SESSION STATUS LIKE 'Ssl_version'"
    clock_query = "SELECT unix_timestamp(now(6))"
    change_type = add_label = change_null = "ALTER TABLE {table} MODIFY {definition}"

    undoes_ddl = False
    migration = MySQLMigration
    grant_databases = "GRANT ALL ON `scratch\\_%`.* TO {role}"
    dump_program = "mariadb-dump --single-transaction (or mysqldump)"

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return the timeouts of a session, and the TLS context."""
        del url, read_only
        lock = max(1, round(config.lock_timeout))
        longest = max(0.001, config.statement_timeout)
        arguments: dict[str, Any] = {
            # MariaDB executes the first comment and MySQL the second.
            "init_command": (
                f"SET SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}"
                f" /*M!100101 , max_statement_time = {longest:.3f} */"
                f" /*!50708 , max_execution_time = {longest * 1000:.0f} */"
            ),
            "connect_timeout": max(1, round(config.connect_timeout)),
        }
        if tls is not None:
            arguments["ssl"] = tls
        return arguments

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return the status of the server's last answer."""
        del adapter  # SQLAlchemy 2.0's does not pass it on
        return bool(driver.get_autocommit())

    def implicit_commits(self, driver: Any) -> int | None:
        """Return None: DDL commits what was before it, and the driver does not count that."""
        del driver
        return None

    def begin_read_only(self, connection: Connection, level: str | None) -> None:
        """Begin a read-only transaction; its snapshot is taken now, not at the first statement."""
        del level
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def is_undone(self, error: Any) -> bool:
        """Return True for a deadlock, a lock timeout, a changed record."""
        return number_of(error) in UNDONE

    def is_unavailable(self, error: Any) -> bool:
        """Return True if the server is full, shutting down, or unreachable."""
        return number_of(error) in UNAVAILABLE

    def is_lost(self, error: Any) -> bool:
        """Return True if the connection is lost."""
        return number_of(error) in LOST

    def was_not_committed(self, error: Any) -> bool:
        """Return True if the server answered COMMIT with an error, other than KILL QUERY."""
        number = number_of(error)
        return number not in {0, _KILLED} and number // 1000 != _CLIENT

    def tell(self, error: Any) -> Told:
        """Return the number of *error*."""
        number = number_of(error)
        return type(error).__name__, [str(number)] if number else []

    def lock_schema(self, connection: Connection) -> bool:
        """Take a session lock, because DDL would commit and release any other."""
        locked = bool(scalar(connection, f"SELECT GET_LOCK({LOCK}, 0)"))
        if locked:  # the connection idles while migrations run on another one
            connection.execute(text(f"SET SESSION wait_timeout = {LONGEST}"))
        return locked

    def unlock_schema(self, connection: Connection) -> None:
        """Release the lock."""
        connection.execute(text(f"SELECT RELEASE_LOCK({LOCK})"))

    def let_tables_change(self, connection: Connection) -> None:
        """End the transaction: DESCRIBE would fail with 1684, so that nobody waits in a circle."""
        connection.rollback()

    def stored_type(self, kind: TypeEngine[Any], sql: str) -> str | None:
        """Return a type as the server keeps it; None when it chooses by size."""
        del kind
        return stored_type(sql)

    def column_key(self, name: str) -> str:
        """Return *name* in lower case: names of columns that differ in case are the same."""
        return name.casefold()

    def empty(self, connection: Connection) -> None:
        """Drop tables whatever refers to them."""
        connection.execute(text("SET SESSION foreign_key_checks = 0"))
        super().empty(connection)

    def server(self, connection: Connection) -> str:
        """Return the version of the server."""
        version = connection.dialect.server_version_info or ()
        return f"mysql {'.'.join(map(str, version))}"


def number_of(error: Any) -> int:
    """Return the server's number of *error*, or 0."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0
