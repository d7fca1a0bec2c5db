"""asyncmy's connection, with an eye for the transactions that end on it."""

from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_AUTOCOMMIT, SERVER_STATUS_IN_TRANS
from asyncmy.errors import OperationalError

from db_manager.dialects.ending_sql import commits_first, ending, ends_later, runs_others, stays

if TYPE_CHECKING:

    class Connection:
        """What we use of asyncmy's connection; its own types leave it out."""

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
        """What we use of asyncmy's prepared statement."""

        _connection: Any
        _statement_id: int
        parameter_count: int

        def __init__(self, connection: object, statement_id: int, parameter_count: int) -> None: ...
        async def execute(self, args: Any = ()) -> Any: ...  # noqa: D102 -- asyncmy's
        async def execute_bulk(self, rows: Any) -> Any: ...  # noqa: D102 -- as above

else:
    from asyncmy.connection import Connection, PreparedStatement

#: Numbers of errors that are not the server's.
_CLIENT: Final = range(2000, 3000)


class _Prepared(PreparedStatement):
    """A statement whose executions go past `query`, and tell their connection all the same."""

    def __init__(self, said: str, prepared: PreparedStatement, connection: object) -> None:
        super().__init__(connection, prepared._statement_id, prepared.parameter_count)  # noqa: SLF001 -- guarded by a test
        self._said = said

    async def execute(self, args: Any = ()) -> Any:
        """Execute it with *args*."""
        connection = self._connection
        result = await connection.watch(self._said, super().execute(args))
        if runs_others(self._said):  # asyncmy keeps the first of its answers
            await connection.ask(self._said)
        return result

    async def execute_bulk(self, rows: Any) -> Any:
        """Execute it for each of *rows*, in one round trip."""
        return await self._connection.watch(self._said, super().execute_bulk(rows))


class WatchedConnection(Connection):
    """Counts the transactions that end, by the state that comes with each of the server's answers.

    Args:
        **kwargs: For asyncmy.
    """

    #: How many were committed by a statement that is about something else, or may have been, and
    #: how much was done that no ROLLBACK undoes.
    implicit_commits = 0
    #: The server undid the transaction when a statement of it failed, after a deadlock for example;
    #: what follows would be committed without what was before.
    failed = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ends = 0
        self._begun = self._autocommits = self._opened = False
        #: The answers to the last statement may tell of an end, and nobody has read them yet.
        self._unread = False
        #: Answers to the last statement that nobody asked for yet, or what came in their place.
        self._answers: deque[Any] = deque()

    @property
    def ends(self) -> int:
        """How many transactions were ended on it so far, or may have been by what nobody read."""
        result = self._result
        if self._unread and result is not None and (result.unbuffered_active or result.has_next):
            return self._ends + 1
        return self._ends

    async def connect(self) -> object:
        """Connect, or connect again, as `ping` does: what was begun on the old line is undone."""
        if not self.connected:
            self._end(lost=self._opened)
            self._autocommits = False
            self._unread = False
            self._answers.clear()
        connected = await super().connect()
        self._opened = True
        return connected

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Send a statement and wait for its answers; the rows of the first may come later."""
        said = sql if isinstance(sql, str) else bytes(sql).decode(errors="replace")
        await self.watch(said, super().query(sql, unbuffered))
        first = self._result
        ends = ends_later(said, mariadb=True)
        # Its other answers come after its last row, which may never be read.
        self._unread = bool(first.unbuffered_active and (ends or runs_others(said)))
        if first.has_next:
            self._ends += ends  # COMMIT AND CHAIN cannot be seen in an answer
            await self._read_ahead(first)
        return self._affected_rows

    async def next_result(self, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Give the next answer to a statement that has several."""
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
        """Read the other answers now: each may tell of an end, and nobody need ask for them."""
        answer = first
        while answer.has_next:
            try:
                await self.watch("", super().next_result())
                answer = self._result
                self._answers.append(answer)
            except Exception as error:  # noqa: BLE001 -- it is of the answer that is asked for later
                self._answers.append(error)
                break
        self._result = first
        self._affected_rows = first.affected_rows

    async def prepare(self, query: Any) -> Any:
        """Prepare a statement at the server."""
        said = query if isinstance(query, str) else bytes(query).decode(errors="replace")
        return _Prepared(said, await super().prepare(query), self)

    async def watch(self, said: str, sending: Awaitable[Any]) -> Any:
        """Await what sends *said*, and see what became of the transaction.

        Args:
            said: The statement; empty for one that is not the first of its text.
            sending: Sends it and waits for its answer.

        Returns:
            What *sending* returns.
        """
        if ending(said):
            self._end()  # now: its answer may be lost
        try:
            done = await sending
        except BaseException as error:
            await self._doubt(said, error)
            raise
        if not self._result.unbuffered_active:  # the server says it after the last row
            self._see(self._result, said)
        return done

    def _see(self, result: Any, said: str) -> None:
        """Look at the state that came with an answer."""
        if result.field_count and not self._deprecate_eof:
            return  # asyncmy does not keep it then
        # asyncmy passes over an answer of 0, and would say for ever that autocommit is on.
        self.server_status = result.server_status
        self._look(said)

    def _look(self, said: str) -> None:
        """Count the transaction that was there and is there no more."""
        status = self.server_status
        begun = bool(status & SERVER_STATUS_IN_TRANS)
        if not begun and (self._begun or stays(said) or runs_others(said)):
            self._count(said)
        autocommits = bool(status & SERVER_STATUS_AUTOCOMMIT)
        if autocommits and not self._autocommits:
            self._ends += 1  # what follows is committed, also when it is off again
        self._begun, self._autocommits = begun, autocommits

    def _count(self, said: str) -> None:
        if commits_first(said) or not self._begun:
            self.implicit_commits += 1
        else:  # by a procedure for example, nobody knows which way
            self._ends += 1

    async def _doubt(self, said: str, error: BaseException) -> None:
        """Find out whether a statement that failed ended the transaction."""
        number = error.args[0] if error.args else None
        answered = isinstance(number, int) and number not in _CLIENT and self.connected
        if runs_others(said):
            self._count(said)
        elif not answered:  # the server may have done it all
            if commits_first(said) if self._begun else stays(said):
                self._count(said)
        elif stays(said, failed=True):
            self.implicit_commits += 1
        if answered and self._begun:
            with suppress(OperationalError):  # the line was lost: nothing more is committed on it
                await self.ask(said, failed=True)

    async def ask(self, said: str, *, failed: bool = False) -> None:
        """Ask the server whether it is in a transaction after *said*; one round trip.

        Args:
            said: The statement.
            failed: The server refused it.
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
        """Begin; what was begun before is committed."""
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
        """Let each statement commit itself, or not; the former commits what was begun."""
        self._end(lost=bool(value) and not self._autocommits)
        self._autocommits = bool(value)
        await super().autocommit(value)
