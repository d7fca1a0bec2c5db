"""asyncmy's connection, with a deadline for answers and an eye for ends of transactions."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS
from asyncmy.errors import OperationalError

from db_manager.deadlines import Deadlines
from db_manager.ending_sql import commits_first, ending, runs_others

if TYPE_CHECKING:

    class Connection:
        """What we use of asyncmy's connection; its own types leave it out."""

        _proto: Any
        _transport: Any
        _result: Any

        def __init__(self, **kwargs: Any) -> None: ...
        async def connect(self) -> object: ...  # noqa: D102 -- asyncmy's
        async def query(self, sql: Any, unbuffered: bool = False) -> Any: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def next_result(self, unbuffered: bool = False) -> Any: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def autocommit(self, value: bool) -> None: ...  # noqa: D102, FBT001 -- as above
        async def begin(self) -> None: ...  # noqa: D102 -- as above
        async def commit(self) -> None: ...  # noqa: D102 -- as above
        async def rollback(self) -> None: ...  # noqa: D102 -- as above
        async def _fill_buffer(self, need: int) -> None: ...

else:
    from asyncmy.connection import Connection

#: The server understood nothing of the statement, and did nothing.
_PARSE_ERROR: Final = 1064


class PatientConnection(Connection):
    """Gives its line up when an answer does not come, and counts the transactions that end.

    asyncmy's own `read_timeout` costs a task for each answer on Python 3.11.

    Args:
        answer_timeout: Seconds that the server may take for an answer, or for more of it.
        **kwargs: For asyncmy.
    """

    #: How many transactions were ended on it so far.
    ends = 0
    #: How many were committed by a statement that is about something else.
    implicit_commits = 0

    def __init__(self, *, answer_timeout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._answer_timeout = answer_timeout
        self._begun = False
        self._said = ""
        self._deadlines = Deadlines(asyncio.get_running_loop())

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Send a statement and wait for its answer."""
        self._said = said = sql if isinstance(sql, str) else bytes(sql).decode(errors="replace")
        if self._begun and ending(said):
            self.ends += 1  # now: its answer may be lost
            self._begun = False
        try:
            rows = await super().query(sql, unbuffered)
        except Exception as error:
            self._doubt(error)
            raise
        if not unbuffered:  # the server says it after the last row
            self._see()
        return rows

    async def next_result(self, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Wait for the next answer to a statement that has several."""
        rows = await super().next_result(unbuffered)
        if not unbuffered:
            self._see()
        return rows

    def _see(self) -> None:
        """Count the transaction that was there and is there no more."""
        # Of the answer itself: asyncmy's `server_status` passes over an answer of 0.
        begun = bool(self._result.server_status & SERVER_STATUS_IN_TRANS)
        if self._begun and not begun:
            self._count()
        self._begun = begun

    def _doubt(self, error: Exception) -> None:
        """Count the transaction that a statement may have ended before it failed."""
        of_grammar = error.args[:1] == (_PARSE_ERROR,)
        if (
            self._begun
            and not of_grammar
            and (commits_first(self._said) or runs_others(self._said))
        ):
            self._count()
            self._begun = False

    def _count(self) -> None:
        if commits_first(self._said):
            self.implicit_commits += 1
        else:  # by a procedure for example, nobody knows which way
            self.ends += 1

    async def begin(self) -> None:
        """Begin; what was begun before is committed."""
        self.ends += self._begun
        self._begun = True
        await super().begin()

    async def commit(self) -> None:
        """Commit."""
        self.ends += self._begun
        self._begun = False
        await super().commit()

    async def rollback(self) -> None:
        """Roll back."""
        self.ends += self._begun
        self._begun = False
        await super().rollback()

    async def autocommit(self, value: bool) -> None:  # noqa: FBT001 -- asyncmy's signature
        """Let each statement commit itself, or not; the former commits what was begun."""
        if value:
            self.ends += self._begun
            self._begun = False
        await super().autocommit(value)

    async def _fill_buffer(self, need: int) -> None:
        """Wait for *need* bytes; asyncmy comes here whenever it has to (guarded by a test)."""
        deadline = self._deadlines.call_later(self._answer_timeout, self._give_up)
        try:
            await super()._fill_buffer(need)
        except OperationalError as error:
            if isinstance(self._proto.exc, TimeoutError):
                raise error from self._proto.exc
            raise
        finally:
            deadline.cancel()

    def _give_up(self) -> None:
        if self._transport is not None:
            # It ends the wait as an OperationalError of asyncmy's: 2013, the connection is lost.
            self._proto.exc = TimeoutError(f"no answer within {self._answer_timeout:g} s")
            self._transport.abort()


def connect(
    *, answer_timeout: float, connect_timeout: float, **kwargs: Any
) -> Coroutine[Any, Any, PatientConnection]:
    """Connect as `asyncmy.connect` does, with a deadline for answers and for the whole login.

    It is not `async`: a frame of ours that waits would show the password beside a traceback.

    Args:
        answer_timeout: Seconds that the server may take for an answer.
        connect_timeout: Seconds for everything up to the end of the login.
        **kwargs: For asyncmy.

    Returns:
        What gives the connection when it is awaited.
    """
    return _opened(PatientConnection(answer_timeout=answer_timeout, **kwargs), connect_timeout)


async def _opened(connection: PatientConnection, connect_timeout: float) -> PatientConnection:
    async with asyncio.timeout(connect_timeout):
        await connection.connect()
    return connection
