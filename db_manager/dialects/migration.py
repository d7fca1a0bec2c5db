"""One migration on its way: how a database takes its statements, and what of them stays."""

import datetime as dt
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, Self

from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

#: Statements that change nothing, by their first word.
_READS: Final = frozenset({"SELECT", "PRAGMA", "SHOW", "DESCRIBE", "SET", "BEGIN"})
#: SQLAlchemy's calls of the driver: events of its dialect, and methods of the same name.
_CALLS: Final = ("do_execute", "do_execute_no_params", "do_executemany")


#: How the comment of a version table says that a migration is half way.
_MARK: Final = re.compile(
    r"half way from '(?P<before>[^']*)' to '(?P<after>[^']*)'"
    r" since (?P<since>\S+) on connection (?P<connection>\d+)"
)


@dataclass(frozen=True)
class HalfWay:
    """A migration that began and did not end, where a transaction does not take it back.

    It is kept as the comment of the version table, which is there after kill -9 too.

    Args:
        before: The revision that the database was at; empty when it had none.
        after: The one that it was to be at; empty when it was to have none.
        since: When it began, in UTC.
        connection: The server's number of the connection that works on it; 0 if none does.
    """

    before: str
    after: str
    since: str
    connection: int

    @classmethod
    def read(cls, comment: object) -> Self | None:
        """Return what *comment* of a version table says; None if that is something else."""
        found = _MARK.fullmatch(str(comment or ""))
        if found is None:
            return None
        return cls(found["before"], found["after"], found["since"], int(found["connection"]))

    def __str__(self) -> str:
        """Return the comment."""
        return (
            f"half way from '{self.before}' to '{self.after}' since {self.since} on connection "
            f"{self.connection}"
        )


class Migration:
    """A revision that is being applied or taken back, once; a subclass knows its database.

    By default a transaction takes back what it did, and a statement that fails ends it.

    Args:
        versions: The table that says what the database is at.
        before: The revision that the database is at; empty when it has none.
        after: The one that it will be at; empty when it will have none.
        deadline: When the waiting for locks ends, by `time.monotonic`.
        lock: The connection that holds the lock of the schema, if one does.
    """

    #: Longest wait for a lock at a time, in seconds: whoever comes after us waits as long.
    lock_wait: ClassVar[float] = 2.0
    #: Whether it may leave its transaction, for a statement that must run outside of one.
    may_leave: ClassVar[bool] = True
    #: How the comment of a table is put; queries for it, for the number of a connection, and for
    #: whether that one works on something. Nothing where nothing stays half way.
    put_comment: ClassVar[str] = ""
    comment: ClassVar[TextClause | None] = None
    number: ClassVar[TextClause] = text("SELECT 0")
    works: ClassVar[TextClause] = text("SELECT 0")

    def __init__(
        self,
        versions: str,
        before: str = "",
        after: str = "",
        deadline: float = 0,
        lock: Connection | None = None,
    ) -> None:
        self.versions = versions
        self.before = before
        self.after = after
        self.deadline = deadline
        self.lock = lock
        #: Number of its statements that a ROLLBACK does not take back.
        self.kept = 0
        self._open = self._committing = 0
        #: Whether the database says that it is half way.
        self.is_marked = False

    # -- what a database does in its own way ----------------------------------------------

    def begin(self, connection: Connection) -> None:
        """Prepare a transaction of it.

        Args:
            connection: Its connection, in the transaction.
        """

    def leave(self, connection: Connection) -> None:
        """Note that it leaves its transaction, and will not be taken back as a whole.

        Args:
            connection: Its connection, in the transaction, which is committed now.
        """
        self.mark(connection)

    def run(self, send: Callable[[], object], sql: str, connection: Connection) -> None:
        """Run one statement of it.

        Args:
            send: Sends the statement, and waits for the answer; it may be called again.
            sql: The statement.
            connection: Its connection.

        Raises:
            DbManagerError: What the statement did is not what it says; the text has the way out.
        """
        del sql, connection
        send()

    def commits(self, sql: str) -> bool:
        """Return True if *sql* stays at once, with what was before it in the transaction."""
        del sql
        return False

    def end(self, connection: Connection) -> str:
        """Return what is wrong with the rows before COMMIT; empty when nothing is.

        Args:
            connection: Its connection, in the transaction.
        """
        del connection
        return ""

    def settle(self, connection: Connection) -> None:
        """Note that it is over: it was committed, or nothing of it stays.

        Args:
            connection: Its connection, in no transaction; it may be lost.
        """

    # -- what is half way -----------------------------------------------------------------

    def half_way(self, connection: Connection) -> HalfWay | None:
        """Return what is known of a migration that began and did not end.

        Args:
            connection: Any connection.
        """
        if self.comment is None:
            return None
        found = HalfWay.read(connection.scalar(self.comment, {"versions": self.versions}))
        if found and not connection.scalar(self.works, {"number": found.connection}):
            return replace(found, connection=0)
        return found

    def forget_half_way(self, connection: Connection) -> None:
        """Know no more of it: somebody has said what is there.

        Args:
            connection: A connection in no transaction.
        """
        if self.half_way(connection) is not None:
            self.unmark(connection)

    def mark(self, connection: Connection) -> None:
        """Let the database say that it is half way.

        Args:
            connection: Its connection.
        """
        if not self.is_marked:
            self.is_marked = True
            since = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
            number = int(connection.scalar(self.number) or 0)
            self._comment(connection, str(HalfWay(self.before, self.after, since, number)))

    def unmark(self, connection: Connection) -> None:
        """Let the database say so no more.

        Args:
            connection: Its connection.
        """
        self._comment(connection, "")

    def _comment(self, connection: Connection, said: str) -> None:
        quoted = said.replace("'", "''")
        connection.exec_driver_sql(self.put_comment.format(table=self.versions, said=quoted))

    # -- what stays -----------------------------------------------------------------------

    @contextmanager
    def watching(self, engine: AsyncEngine) -> Iterator[None]:
        """Run and count what is sent on *engine* while the block lasts."""
        listeners: dict[str, Callable[..., Any]] = {
            **{name: partial(self._run, name) for name in _CALLS},
            "after_cursor_execute": self._sent,
            "commit": self._commits,
            "begin": self._begins,
        }
        for name, listener in listeners.items():
            event.listen(engine.sync_engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners.items():
                event.remove(engine.sync_engine, name, listener)

    def _run(self, call: str, cursor: object, sql: str, *rest: Any) -> bool:
        context = rest[-1]
        if self.commits(sql):  # what is open, even if the statement itself fails
            self.kept += self._open
            self._open = 0
        send = partial(getattr(context.dialect, call), cursor, sql, *rest)
        self.run(send, sql, context.root_connection)
        return True

    def _sent(self, connection: Connection, _cursor: object, sql: str, *_: Any) -> None:
        first = sql.split(maxsplit=1)[:1]
        if not first or first[0].upper() in _READS or self.versions in sql:
            return
        if is_autocommit(connection) or self.commits(sql):
            self.kept += 1
        else:
            self._open += 1

    def _commits(self, _connection: Connection) -> None:
        self._committing, self._open = self._open, 0

    def _begins(self, connection: Connection) -> None:
        # The COMMIT before it went through, else there would be an error instead.
        self.kept += self._committing
        self._committing = 0
        if self.kept and not is_autocommit(connection):
            self.begin(connection)


def is_autocommit(connection: Connection) -> bool:
    """Return True if each statement on *connection* commits by itself."""
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
