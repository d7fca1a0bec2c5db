"""How PostgreSQL takes a migration: in a transaction, but for what it refuses to run in one."""

import re
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, text

from db_manager.dialects.migration import Migration
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
#: A statement that does nothing when there is an index of that name, also an invalid one.
_IF_NOT_EXISTS: Final = re.compile(
    r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+"
    r"(?P<name>(?:\"(?:[^\"]|\"\")+\"|[^\s\".]+)+)",
    re.IGNORECASE,
)


class PostgresMigration(Migration):
    """A migration that may leave its transaction, for CREATE INDEX CONCURRENTLY."""

    def begin(self, connection: Connection) -> None:
        """Wait briefly for locks; outside of a transaction, as CONCURRENTLY does, for long."""
        connection.execute(_BEGIN, {"milliseconds": str(int(self.lock_wait * 1000))})

    def run(self, send: Callable[[], object], sql: str, connection: Connection) -> None:
        """Run one statement, and believe in no index that a failed attempt has left behind.

        Raises:
            DbManagerError: The index that should not be made again is none.
        """
        send()
        found = _IF_NOT_EXISTS.match(sql)
        if found is None:
            return
        name = found["name"]
        if connection.scalar(_IS_VALID, {"name": name}) is False:
            raise DbManagerError(
                f"the index {name} is INVALID: an attempt to build it has failed, and IF NOT "
                f"EXISTS goes over it; DROP INDEX {name}, and start again"
            )
