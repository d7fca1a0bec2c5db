"""asyncmy's connection, with a count of the transactions that end on it."""

from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_AUTOCOMMIT, SERVER_STATUS_IN_TRANS
from asyncmy.errors import OperationalError

from db_manager.dialects.ending_sql import commits_first, ending, ends_later, runs_others, stays

if TYPE_CHECKING:

    class Connection:
        """The part of asyncmy's connection that we use; asyncmy's own types lack it."""

        _proto: Any
        _transport: Any
        _result: Any
        _affected_rows: Any
        _deprecate_eof: bool
        server_status: int
        connected: bool

        def __init__(self, **kwargs: Any) -> None: ...
        async def connect(self) -> object: ...  # noqa: D102 -- asyncmy's
        async def query(self, sql: Any, unbuffered: bool = False) -> Any: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def next_result(self, unbuffered: bool = False) -> Any: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def prepare(self, query: Any) -> Any: ...  # noqa: D102 -- as above
        async def ping(self, reconnect: bool = True) -> None: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def autocommit(self, value: bool) -> None: ...  # noqa: D102, FBT001 -- as above
        async def begin(self) -> None: ...  # noqa: D102 -- as above
        async def commit(self) -> None: ...  # noqa: D102 -- as above
        async def rollback(self) -> None: ...  # noqa: D102 -- as above
        async def _fill_buffer(self, need: int) -> None: ...

    class PreparedStatement:
        """The part of asyncmy's prepared statement that we use."""

        _connection: Any
        _statement_id: int
        parameter_count: int

        def __init__(self, connection: object, statement_id: int, parameter_count: int) -> None: ...
        async def execute(self, args: Any = ()) -> Any: ...  # noqa: D102 -- asyncmy's
        async def execute_bulk(self, rows: Any) -> Any: ...  # noqa: D102 -- as above

else:
    from asyncmy.connection import Connection, PreparedStatement

#: Numbers of client errors; the others come from the server.
_CLIENT: Final = range(2000, 3000)


class _Prepared(PreparedStatement):
    """A prepared statement, whose executions bypass `query` and are watched here instead."""

    def __init__(self, said: str, prepared: PreparedStatement, connection: object) -> None:
        super().__init__(connection, prepared._statement_id, prepared.parameter_count)  # noqa: SLF001 -- guarded by a test
        self._said = said

    async def execute(self, args: Any = ()) -> Any:
        """Execute it with *args*."""
        connection = self._connection
        result = await connection.watch(self._said, super().execute(args))
        if runs_others(self._said):  # asyncmy keeps only its first answer
            await connection.ask(self._said)
        return result

    async def execute_bulk(self, rows: Any) -> Any:
        """Execute it for each of *rows*, in one round trip."""
        return await self._connection.watch(self._said, super().execute_bulk(rows))


class WatchedConnection(Connection):
    """Counts ended transactions, by the status that the server sends with each answer.

    Args:
        **kwargs: For asyncmy.
    """

    #: Number of statements that committed the transaction implicitly, or may have, or that took
    #: effect permanently.
    implicit_commits = 0
    #: True after the server rolled the transaction back because a statement failed, for example in
    #: a deadlock. Later statements would be committed without the earlier ones.
    failed = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ends = 0
        self._begun = self._autocommits = self._opened = False
        #: True while unread answers to the last statement may report an end.
        self._unread = False
        #: Answers to the last statement that were read ahead, or the error in place of one.
        self._answers: deque[Any] = deque()

    @property
    def ends(self) -> int:
        """Number of transactions that ended on it, including one that unread answers may report."""
        result = self._result
        if self._unread and result is not None and (result.unbuffered_active or result.has_next):
            return self._ends + 1
        return self._ends

    async def connect(self) -> object:
        """Connect, or reconnect as `ping` does, which loses an open transaction."""
        if not self.connected:
            self._end(lost=self._opened)
            self._autocommits = False
            self._unread = False
            self._answers.clear()
        connected = await super().connect()
        self._opened = True
        return connected

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Send a statement and wait for its answers; rows of the first may be read later."""
        said = sql if isinstance(sql, str) else bytes(sql).decode(errors="replace")
        await self.watch(said, super().query(sql, unbuffered))
        first = self._result
        ends = ends_later(said, mariadb=True)
        # The other answers follow the last row, which may never be read.
        self._unread = bool(first.unbuffered_active and (ends or runs_others(said)))
        if first.has_next:
            self._ends += ends  # no answer shows a COMMIT AND CHAIN
            await self._read_ahead(first)
        return self._affected_rows

    async def next_result(self, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Return the next answer to a statement that has several."""
        if self._answers:
            answer = self._answers.popleft()
            if isinstance(answer, Exception):
                self._result = None  # it was the last one
                raise answer
            self._result = answer
            self._affected_rows = answer.affected_rows
            return answer.affected_rows
        rows = await super().next_result(unbuffered)
        if not self._result.unbuffered_active:
            self._see(self._result, "")
        return rows

    async def _read_ahead(self, first: Any) -> None:
        """Read the other answers now: each may report an end, and the caller may not read them."""
        answer = first
        while answer.has_next:
            try:
                await self.watch("", super().next_result())
                answer = self._result
                self._answers.append(answer)
            except Exception as error:  # noqa: BLE001 -- raised when this answer is asked for
                self._answers.append(error)
                break
        self._result = first
        self._affected_rows = first.affected_rows

    async def prepare(self, query: Any) -> Any:
        """Prepare a statement at the server."""
        said = query if isinstance(query, str) else bytes(query).decode(errors="replace")
        return _Prepared(said, await super().prepare(query), self)

    async def watch(self, said: str, sending: Awaitable[Any]) -> Any:
        """Await *sending*, and note its effect on the transaction.

        Args:
            said: The statement; empty for a later answer of a script.
            sending: Sends it and waits for its answer.

        Returns:
            What *sending* returns.
        """
        if ending(said):
            self._end()  # before it is sent: its answer may be lost
        try:
            done = await sending
        except BaseException as error:
            await self._doubt(said, error)
            raise
        if not self._result.unbuffered_active:  # otherwise the status follows the last row
            self._see(self._result, said)
        return done

    def _see(self, result: Any, said: str) -> None:
        """Take the status that came with an answer."""
        if result.field_count and not self._deprecate_eof:
            return  # asyncmy does not keep it in this case
        # asyncmy ignores a status of 0, and would report forever that autocommit is on.
        self.server_status = result.server_status
        self._look(said)

    def _look(self, said: str) -> None:
        """Count a transaction that is not open any more, or a permanent effect of *said*."""
        status = self.server_status
        begun = bool(status & SERVER_STATUS_IN_TRANS)
        if not begun and (self._begun or stays(said) or runs_others(said)):
            self._count(said)
        autocommits = bool(status & SERVER_STATUS_AUTOCOMMIT)
        if autocommits and not self._autocommits:
            self._ends += 1  # what follows is committed, even after it is switched off
        self._begun, self._autocommits = begun, autocommits

    def _count(self, said: str) -> None:
        if commits_first(said) or not self._begun:
            self.implicit_commits += 1
        else:  # for example in a procedure: commit or rollback, unknown
            self._ends += 1

    async def _doubt(self, said: str, error: BaseException) -> None:
        """Find out whether a failed statement ended the transaction."""
        number = error.args[0] if error.args else None
        answered = isinstance(number, int) and number not in _CLIENT and self.connected
        if runs_others(said):
            self._count(said)
        elif not answered:  # the server may have completed it
            if commits_first(said) if self._begun else stays(said):
                self._count(said)
        elif stays(said, failed=True):
            self.implicit_commits += 1
        if answered and self._begun:
            with suppress(
                OperationalError
            ):  # the connection is lost: nothing more is committed on it
                await self.ask(said, failed=True)

    async def ask(self, said: str, *, failed: bool = False) -> None:
        """Ask the server whether it is in a transaction after *said*; one round trip.

        Args:
            said: The statement.
            failed: The server answered it with an error.
        """
        result = self._result
        await super().ping(reconnect=False)
        self._result = result
        undone = failed and not (commits_first(said) or runs_others(said))
        if undone and self._begun and not self.server_status & SERVER_STATUS_IN_TRANS:
            self.failed, self._begun = True, False
        self._look(said)

    def _end(self, *, lost: bool = False) -> None:
        self._ends += self._begun or self.failed or lost
        self._begun = self.failed = False

    async def begin(self) -> None:
        """Begin; this commits an open transaction."""
        self._end()
        self._begun = True
        await super().begin()

    async def commit(self) -> None:
        """Commit."""
        self._end()
        await super().commit()

    async def rollback(self) -> None:
        """Roll back."""
        self._end()
        await super().rollback()

    async def autocommit(self, value: bool) -> None:  # noqa: FBT001 -- asyncmy's signature
        """Switch autocommit; switching it on commits an open transaction."""
        self._end(lost=bool(value) and not self._autocommits)
        self._autocommits = bool(value)
        await super().autocommit(value)
