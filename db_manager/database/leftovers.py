"""What statements leave behind on a connection, so that no later read-only unit finds it there."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.open_unit import OpenUnit
from db_manager.database.statements import CALLS
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.ending_sql import BLANKS

#: Statements that read, that are refused, or that end with their transaction.
_HARMLESS: Final = re.compile(
    rf"""{BLANKS} (?: \( {BLANKS} )*+
    (?: (?: SELECT | WITH | VALUES | TABLE | SHOW | EXPLAIN | DESC | DESCRIBE | FETCH
          | INSERT | UPDATE | DELETE | MERGE | REPLACE
          | SAVEPOINT | RELEASE | ROLLBACK \s+ TO | START \s+ TRANSACTION \s+ WITH ) \b
      | PRAGMA \s+ (?: \w+ \. )? (?: \w+ \s* ;? \s* \Z
          | (?: table_x?info | table_list | index_list | index_x?info
              | foreign_key_list | foreign_key_check | integrity_check | quick_check ) \s* \( )
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
#: What leaves something behind inside of a statement that reads, or after it.
_HIDDEN: Final = re.compile(
    rf"""; {BLANKS} [a-z] | /\*M?! | := | \b INTO \s+ (?: @ | (?: LOCAL | GLOBAL | TEMP ) )
    | \b (?: set_config | setseed | (?: pg_ (?: try_ )? advisory_lock (?: _shared )? )
           | get_lock | load_extension | dblink_connect ) "? \s* \(""",
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def leaves_something(sql: str) -> bool:
    """Return True unless *sql* is known to leave its connection as it was.

    A setting, a lock of the session, a temporary table, an attached file or a prepared statement
    outlives the unit that asked for it. A wrong True costs a new connection and nothing else.

    Args:
        sql: A statement as the driver gets it.
    """
    return _HARMLESS.match(sql) is None or _HIDDEN.search(sql) is not None


class Leftovers:
    """The connections on which read-only units left something.

    Args:
        units: The unit of each connection that is checked out.
        dialect: Of their database.
    """

    def __init__(self, units: Mapping[Connection, OpenUnit], dialect: Dialect) -> None:
        self._units = units
        self._dialect = dialect
        self._engines: set[AsyncEngine] = set()
        self._left: set[Connection] = set()

    def watch(self, engine: AsyncEngine) -> None:
        """Look at the statements that read-only units say on *engine*, from now on.

        Not on a database in memory: it lives in its one connection, which nothing can replace.
        """
        if engine in self._engines:
            return
        self._engines.add(engine)
        if not self._dialect.is_in_memory(engine.url):
            for name in CALLS:
                event.listen(engine.sync_engine, name, self._look)

    def _look(self, _cursor: object, sql: str, *rest: Any) -> None:
        if leaves_something(sql):
            self.note(rest[-1].root_connection)

    def note(self, connection: Connection) -> None:
        """Remember that something was left on *connection*, when its unit is a read-only one."""
        unit = self._units.get(connection)
        if unit is not None and unit.read_only:
            self._left.add(connection)

    def forget(self, connection: Connection) -> None:
        """Think no more of *connection*: its line was dropped."""
        self._left.discard(connection)

    def drop(self, connection: Connection) -> None:
        """Close *connection*, instead of giving it back, when something was left on it."""
        if connection in self._left:
            self._left.discard(connection)
            if not (connection.closed or connection.invalidated):
                connection.invalidate()

    def refuse_writing(self, dbapi_connection: Any, _record: object, _proxy: object) -> None:
        """Replace a connection for reading whose refusal of writes somebody switched off.

        Args:
            dbapi_connection: A connection that is checked out of a pool for reading.

        Raises:
            DisconnectionError: It would let a write pass.
        """
        if not self._dialect.refuses_writes(dbapi_connection.driver_connection):
            raise DisconnectionError("its refusal of writes was switched off")
