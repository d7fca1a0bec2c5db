"""Session state that outlives a read-only unit; the next unit must not get that connection."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DisconnectionError

from db_manager.database.open_unit import OpenUnit
from db_manager.database.statements import CALLS
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.ending_sql import BLANKS

#: Statements that only read, that are refused, or whose effect ends with their transaction.
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
#: Parts of such a statement, or statements after it, that do leave something.
_HIDDEN: Final = re.compile(
    rf"""; {BLANKS} [a-z] | /\*M?! | := | \b INTO \s+ (?: @ | (?: LOCAL | GLOBAL | TEMP ) )
    | \b (?: set_config | setseed | (?: pg_ (?: try_ )? advisory_lock (?: _shared )? )
           | get_lock | load_extension | dblink_connect ) "? \s* \(""",
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def leaves_something(sql: str) -> bool:
    """Return True unless *sql* is known to leave its connection unchanged.

    A setting, a session lock, a temporary table, an attached file or a prepared statement outlives
    its unit. A wrong True only costs a new connection.

    Args:
        sql: A statement as the driver gets it.
    """
    return _HARMLESS.match(sql) is None or _HIDDEN.search(sql) is not None


class Leftovers:
    """The connections on which read-only units have left session state.

    Args:
        units: The unit of each checked-out connection.
        dialect: The dialect of their database.
    """

    def __init__(self, units: Mapping[Connection, OpenUnit], dialect: Dialect) -> None:
        self._units = units
        self._dialect = dialect
        self._engines: set[Engine] = set()
        self._left: set[Connection] = set()

    def watch(self, engine: Engine) -> None:
        """Examine the statements of read-only units on *engine* from now on.

        An in-memory database is left out: its one connection cannot be replaced.
        """
        if engine in self._engines:
            return
        self._engines.add(engine)
        if not self._dialect.is_in_memory(engine.url):
            for name in CALLS:
                event.listen(engine, name, self._look)

    def _look(self, _cursor: object, sql: str, *rest: Any) -> None:
        if leaves_something(sql):
            self.note(rest[-1].root_connection)

    def note(self, connection: Connection) -> None:
        """Note that something was left on *connection*, if its unit is read-only."""
        unit = self._units.get(connection)
        if unit is not None and unit.read_only:
            self._left.add(connection)

    def forget(self, connection: Connection) -> None:
        """Forget *connection*, which was dropped."""
        self._left.discard(connection)

    def drop(self, connection: Connection) -> None:
        """Close *connection* instead of returning it, if something was left on it."""
        if connection in self._left:
            self._left.discard(connection)
            if not (connection.closed or connection.invalidated):
                connection.invalidate()

    def refuse_writing(self, dbapi_connection: Any, _record: object, _proxy: object) -> None:
        """Replace a read-only connection that does not refuse writes any more.

        Args:
            dbapi_connection: A connection that is being checked out of the pool for reading.

        Raises:
            DisconnectionError: The connection would allow writes, so the pool replaces it.
        """
        if not self._dialect.refuses_writes(dbapi_connection.driver_connection):
            raise DisconnectionError("the connection does not refuse writes any more")
