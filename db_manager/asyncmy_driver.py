"""asyncmy's connection, with a deadline for answers and an eye for ends of transactions."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS
from asyncmy.errors import OperationalError

from db_manager.deadlines import Deadlines
from db_manager.ending_sql import ending

if TYPE_CHECKING:

    class Connection:
        """What we use of asyncmy's connection; its own types leave it out."""

        _proto: Any
        _transport: Any
        server_status: int

        def __init__(self, **kwargs: Any) -> None: ...
        async def connect(self) -> object: ...  # noqa: D102 -- asyncmy's
        async def query(self, sql: Any, unbuffered: bool = False) -> Any: ...  # noqa: D102, FBT001, FBT002 -- as above
        async def begin(self) -> None: ...  # noqa: D102 -- as above
        async def commit(self) -> None: ...  # noqa: D102 -- as above
        async def rollback(self) -> None: ...  # noqa: D102 -- as above
        async def _fill_buffer(self, need: int) -> None: ...

else:
    from asyncmy.connection import Connection


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
        self._deadlines = Deadlines(asyncio.get_running_loop())

    @property
    def _in_transaction(self) -> bool:
        return bool(self.server_status & SERVER_STATUS_IN_TRANS)

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Send a statement and wait for its answer."""
        begun, said = self._in_transaction, isinstance(sql, str) and ending(sql)
        if begun and said:
            self.ends += 1  # now: its answer may be lost
        try:
            return await super().query(sql, unbuffered)
        finally:
            # Whatever else ends one commits it, DDL for example.
            if begun and not said and not self._in_transaction:
                self.implicit_commits += 1

    async def begin(self) -> None:
        """Begin; what was begun before is committed."""
        self.ends += self._in_transaction
        await super().begin()

    async def commit(self) -> None:
        """Commit."""
        self.ends += self._in_transaction
        await super().commit()

    async def rollback(self) -> None:
        """Roll back."""
        self.ends += self._in_transaction
        await super().rollback()

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
