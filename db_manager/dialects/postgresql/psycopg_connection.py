"""psycopg's connection, with a deadline for answers and an eye for ends of transactions."""

import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from db_manager.dialects.ending_sql import ENDS, SPOIL, ending, ends_later
from db_manager.running.timers import Timer, Timers

#: The server owes no answer: whoever waits now waits for a notification.
_OWES_NOTHING: Final = frozenset(
    {TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR}
)


_OPEN: Final = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})


class _Cursor(psycopg.AsyncCursor[Any]):
    """Counts an end of a transaction before it is sent: its answer may be lost."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._tell(query)
        try:
            return await super().execute(query, *args, **kwargs)
        except Exception:
            await self._spoil()
            raise

    async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        self._tell(query)
        try:
            await super().executemany(query, *args, **kwargs)
        except Exception:
            await self._spoil()
            raise

    async def stream(self, query: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self._tell(query)
        try:
            async with aclosing(super().stream(query, *args, **kwargs)) as rows:  # type: ignore[type-var]  # a generator
                async for row in rows:
                    yield row
        except Exception:
            await self._spoil()
            raise

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._tell(statement)
        return super().copy(statement, *args, **kwargs)

    def _tell(self, query: object) -> None:
        sql = query if isinstance(query, str) else _text(query)
        if ending(sql) in ENDS or ends_later(sql):
            self.connection.ends += 1  # type: ignore[attr-defined]  # it is a PatientConnection

    async def _spoil(self) -> None:
        """Let the server refuse the transaction of a statement that failed at its client.

        The server does not know of it, and would commit without it, or the first half of an
        `executemany`. It is the one that keeps book of savepoints, so it is told.
        """
        connection = self.connection
        piped = connection.pgconn.pipeline_status and not connection.autocommit
        if piped or connection.pgconn.transaction_status == TransactionStatus.INTRANS:
            with suppress(psycopg.Error):
                await super().execute(SPOIL)


def _text(query: object) -> str:
    """Return the SQL of a *query* that is no string, or of its beginning."""
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, Composable):
        return query.as_string(None)
    return "?".join(getattr(query, "strings", ()))  # of a template string


class PatientConnection(psycopg.AsyncConnection[Any]):
    """Gives its line up when an answer does not come, and counts the transactions that end.

    Every wait of psycopg, on every lane, comes through `wait`.
    """

    #: How many transactions ended on it so far.
    ends = 0
    #: Seconds that an answer may take; `connect` sets it.
    answer_timeout: float
    _timers: Timers | None = None
    _timer: Timer | None = None
    _gave_up = _begun = False
    _waits = _terminated = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = _Cursor

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for what the server has to say.

        Args:
            gen: What psycopg is about to do.
            *args: For psycopg.
            **kwargs: For psycopg.

        Returns:
            What *gen* returns.

        Raises:
            OperationalError: There was no answer in time, and the connection is closed now.
        """
        if self._timers is None:
            self._timers = Timers.current()
        self._arm(self._timers)
        self._see()
        self._waits = True
        try:
            return await super().wait(gen, *args, **kwargs)
        except psycopg.OperationalError as error:
            if self._gave_up:
                raise psycopg.OperationalError(
                    f"no answer from the server within {self.answer_timeout:g} s: "
                    f"the connection is closed"
                ) from TimeoutError(str(error))
            raise
        finally:
            self._see()
            if self._timer is not None:
                self._timer.cancel()
            self._waits = False
            if self._terminated:
                self.pgconn.finish()

    def _see(self) -> None:
        """Count the transaction that was there and is there no more."""
        status = self.pgconn.transaction_status
        if status in _OPEN:
            self._begun = True
        elif self._begun and status == TransactionStatus.IDLE:  # a pipeline is ACTIVE meanwhile
            self._begun = False
            self.ends += 1

    async def set_autocommit(self, value: bool) -> None:  # noqa: FBT001 -- psycopg's signature
        """Let each statement commit itself, or not; what is said meanwhile cannot be undone."""
        self.ends += value and not self.autocommit
        await super().set_autocommit(value)

    async def commit(self) -> None:
        """Commit."""
        self.ends += 1
        await super().commit()

    async def rollback(self) -> None:
        """Roll back."""
        self.ends += 1
        await super().rollback()

    def _arm(self, timers: Timers) -> None:
        self._timer = timers.call_later(self.answer_timeout, self._give_up, timers)

    def _give_up(self, timers: Timers) -> None:
        if self.closed:
            return
        if self.pgconn.transaction_status in _OWES_NOTHING:
            self._arm(timers)
            return
        self._gave_up = True
        self._hang_up()

    def _hang_up(self) -> None:
        # psycopg waits for its socket: an end of the line is something that it can read.
        with socket.fromfd(self.pgconn.socket, -1, -1, -1) as line:
            line.shutdown(socket.SHUT_RDWR)

    def terminate(self) -> None:
        """Drop the line without a word, also while somebody waits for an answer."""
        if self._waits and not self.closed:
            self._terminated = True  # the event loop still looks at its socket
            self._hang_up()
        else:
            self.pgconn.finish()


def connect(
    *args: Any, answer_timeout: float, **kwargs: Any
) -> Coroutine[Any, Any, PatientConnection]:
    """Connect as `psycopg.AsyncConnection.connect` does, with a deadline for answers.

    It is not `async`: a frame of ours that waits would show the password beside a traceback.

    Args:
        *args: For psycopg.
        answer_timeout: Seconds that the server may take for an answer.
        **kwargs: For psycopg.

    Returns:
        What gives the connection when it is awaited.
    """
    return _opened(PatientConnection.connect(*args, **kwargs), answer_timeout)


async def _opened(
    connecting: Coroutine[Any, Any, PatientConnection], answer_timeout: float
) -> PatientConnection:
    connection = await connecting
    connection.answer_timeout = answer_timeout
    return connection
