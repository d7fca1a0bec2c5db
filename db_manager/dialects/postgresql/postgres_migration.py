"""How PostgreSQL takes a migration: in a transaction, but for what it refuses to run in one.

Before a migration leaves its transaction, a mark says that it is half way. It is the comment of the
version table: committed with what was before, and removed with what is after.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from db_manager.dialects.migration import Migration, is_autocommit
from db_manager.errors import DbManagerError

#: Locks are waited for briefly. Where PgBouncer stands before the server, the timeouts of
#: statements and idle transactions are those of the role, and not of our connections.
_BEGIN: Final = text(
    "SELECT set_config('lock_timeout', :milliseconds, true),"
    " set_config('statement_timeout', '0', true),"
    " set_config('idle_in_transaction_session_timeout', '0', true)"
)
_IS_VALID: Final = text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(CAST(:name AS text))"
)
#: A statement that leaves an INVALID index behind when it fails, over which the next IF NOT EXISTS
#: goes.
_CONCURRENTLY: Final = re.compile(
    r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?P<if_not_exists>IF\s+NOT\s+EXISTS\s+)?"
    r"(?P<name>(?:\"(?:[^\"]|\"\")+\"|[^\s\".]+)+)",
    re.IGNORECASE,
)
#: SQLAlchemy makes all types of the models with the first table of `create_tables`, so one may be
#: there before the migration that makes it.
_CREATE_TYPE: Final = re.compile(
    r"\s*CREATE\s+TYPE\s+(?P<name>\S+)\s+AS\s+ENUM\s*\((?P<labels>.*)\)\s*", re.DOTALL
)
_LABELS: Final = (
    "SELECT array_agg(CAST(enumlabel AS text) ORDER BY enumsortorder) = ARRAY[{labels}]"
    " FROM pg_enum WHERE enumtypid = to_regtype('{name}')"
)


class PostgresMigration(Migration):
    """A migration that may leave its transaction, for CREATE INDEX CONCURRENTLY."""

    put_comment = "COMMENT ON TABLE \"{table}\" IS '{said}'"
    comment = text("SELECT obj_description(to_regclass(quote_ident(:versions)), 'pg_class')")
    number = text("SELECT pg_backend_pid()")
    #: Another client of PgBouncer may have the connection now.
    works = text(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = :number"
        " AND datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()"
    )

    def begin(self, connection: Connection) -> None:
        """Wait briefly for locks; outside of a transaction, as CONCURRENTLY does, for long."""
        connection.execute(_BEGIN, {"milliseconds": str(int(self.lock_wait * 1000))})

    def end(self, connection: Connection) -> str:
        """Remove the mark, in the transaction that says what the database is at."""
        if self.is_marked:
            self.unmark(connection)
        return ""

    def settle(self, connection: Connection) -> None:
        """Remove the mark of one of which nothing stays."""
        if self.is_marked and not self.kept:
            with suppress(SQLAlchemyError):  # what it was lost with is no reason to remove it
                self.unmark(connection)
                connection.commit()

    def run(self, send: Callable[[], object], sql: str, connection: Connection) -> None:
        """Run one statement, and believe in no index that a failed attempt has left behind.

        Raises:
            DbManagerError: The index that should not be made again is none.
        """
        made = _CREATE_TYPE.fullmatch(sql)
        if (
            made is not None
            and connection.exec_driver_sql(_LABELS.format(**made.groupdict())).scalar()
        ):
            return  # it is there, with these labels
        found = _CONCURRENTLY.match(sql) if is_autocommit(connection) else None
        try:
            send()
        except Exception:
            self.kept += found is not None and _is_invalid(connection, found["name"])
            raise
        if found is not None and found["if_not_exists"] and _is_invalid(connection, found["name"]):
            name = found["name"]
            raise DbManagerError(
                f"the index {name} is INVALID: an attempt to build it has failed, and IF NOT "
                f"EXISTS goes over it; DROP INDEX {name}, and start again"
            )


def _is_invalid(connection: Connection, index: str) -> bool:
    """Return True if *index* is there and INVALID, or if that cannot be known."""
    try:
        return connection.scalar(_IS_VALID, {"name": index}) is False
    except SQLAlchemyError:  # the connection is lost
        return True
