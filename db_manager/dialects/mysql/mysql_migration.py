"""How MariaDB takes a migration: each DDL statement stays at once, so a mark says what is half way.

The mark is the comment of the version table, which is there after kill -9 too. It is put before the
first statement that a repetition would not bear, and removed after the migration.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util import await_only

from db_manager.config import LONGEST
from db_manager.dialects.ending_sql import commits_first, stays
from db_manager.dialects.in_use import origin
from db_manager.dialects.migration import Migration

#: Seconds between two attempts of a statement.
_PAUSE: Final = 0.1
#: No lock was free in time.
_NO_LOCK: Final = 1205
#: Says of itself that it may be repeated.
_IF_NOT_EXISTS: Final = re.compile(r"\s*CREATE\b[^(]*\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)


class MySQLMigration(Migration):
    """A migration whose DDL cannot be taken back."""

    put_comment = "ALTER TABLE `{table}` COMMENT = '{said}'"
    comment = text(
        "SELECT table_comment FROM information_schema.tables"
        " WHERE table_schema = database() AND table_name = :versions"
    )
    number = text("SELECT connection_id()")
    works = text(
        "SELECT count(*) FROM information_schema.processlist WHERE id = :number AND db = database()"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection_id = 0

    def begin(self, connection: Connection) -> None:
        """Wait briefly for locks, those of rows and those of tables, and pause for long."""
        seconds = max(1, round(self.lock_wait))
        connection.execute(
            text(
                f"SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds},"
                f" wait_timeout = {LONGEST}"
            )
        )
        self._connection_id = int(connection.scalar(self.number) or 0)

    def commits(self, sql: str) -> bool:
        """Return True for DDL and the like."""
        return commits_first(sql)

    def run(self, send: Callable[[], object], sql: str, connection: Connection) -> None:
        """Run one statement, again and again while its lock is not free: it did nothing then.

        Raises:
            CancelledError: The task was cancelled, and the statement is ended at the server.
        """
        if self.commits(sql) and not self._bears_repetition(sql):
            self.mark(connection)
        try:
            self._patiently(send, sql, connection)
        except asyncio.CancelledError:
            self._end_at_server()
            raise
        except Exception:
            self.kept += stays(sql, failed=True)  # as DROP TABLE of several
            raise

    def settle(self, connection: Connection) -> None:
        """Remove the mark; where that fails, what the database is at says that it is over."""
        if self.is_marked:
            with suppress(SQLAlchemyError):
                self.unmark(connection)

    def _bears_repetition(self, sql: str) -> bool:
        return self.versions in sql or _IF_NOT_EXISTS.match(sql) is not None

    def _patiently(self, send: Callable[[], object], sql: str, connection: Connection) -> None:
        while True:
            try:
                send()
            except Exception as error:
                got_no_lock = _number(error) == _NO_LOCK and self._is_whole(sql, connection)
                if not got_no_lock or time.monotonic() >= self.deadline:
                    raise
            else:
                return
            await_only(asyncio.sleep(_PAUSE))

    def _is_whole(self, sql: str, connection: Connection) -> bool:
        """Return True if nothing but the statement itself was undone with it."""
        if self.commits(sql):
            return True
        # Else the server may be one that rolls the transaction back (innodb_rollback_on_timeout).
        return getattr(connection.connection.driver_connection, "failed", True) is False

    def _end_at_server(self) -> None:
        """End the statement that nobody waits for: DDL would go on, and keep everybody out."""
        if self.lock is not None and self._connection_id:
            with suppress(SQLAlchemyError):  # it has ended by itself
                self.lock.exec_driver_sql(f"KILL QUERY {self._connection_id}")


def _number(error: BaseException) -> object:
    arguments = origin(error).args
    return arguments[0] if arguments else 0
