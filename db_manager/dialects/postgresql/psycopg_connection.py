"""psycopg's connection, with a deadline for answers and a count of ended transactions."""

import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from db_manager.dialects.ending_sql import ABORT_TRANSACTION, ENDS, ending, ends_later
from db_manager.running.choose import choose_timers
from db_manager.running.port import Timer, Timers

#: Statuses in which the server owes no answer: a wait is for a notification.
_OWES_NOTHING: Final = frozenset(
    {TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR}
)


_OPEN: Final = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})


class _Cursor(psycopg.AsyncCursor[Any]):
    """Counts the end of a transaction before it is sent, because its answer may be lost."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._count(query)
        try:
            return await super().execute(query, *args, **kwargs)
        except Exception:
            await self._abort_transaction()
            raise

    async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        self._count(query)
        try:
            await super().executemany(query, *args, **kwargs)
        except Exception:
            await self._abort_transaction()
            raise

    async def stream(self, query: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self._count(query)
        try:
            async with aclosing(super().stream(query, *args, **kwargs)) as rows:  # type: ignore[type-var]  # a generator
                async for row in rows:
                    yield row
        except Exception:
            await self._abort_transaction()
            raise

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._count(statement)
        return super().copy(statement, *args, **kwargs)

    def _count(self, query: object) -> None:
        sql = query if isinstance(query, str) else _text(query)
        if ending(sql) in ENDS or ends_later(sql):
            self.connection.ends += 1  # type: ignore[attr-defined]  # a connection of ours

    async def _abort_transaction(self) -> None:
        """Abort the transaction at the server after a statement failed in the client.

        The server does not know of that failure: it would commit without the statement, or with
        the first half of an `executemany`. The transaction is aborted at the server because only
        the server knows which savepoint may undo that.
        """
        connection = self.connection
        piped = connection.pgconn.pipeline_status and not connection.autocommit
        if piped or connection.pgconn.transaction_status == TransactionStatus.INTRANS:
            with suppress(psycopg.Error):
                await super().execute(ABORT_TRANSACTION)


def _text(query: object) -> str:
    """Return the SQL of a *query* that is not a string; parameters of a template are `?`."""
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, Composable):
        return query.as_string(None)
    return "?".join(getattr(query, "strings", ()))  # of a template string


class PatientConnection(psycopg.AsyncConnection[Any]):
    """Closes itself when an answer does not arrive in time, and counts ended transactions.

    Every wait of psycopg, on every lane, goes through `wait`.
    """

    #: Number of transactions that ended on it.
    ends = 0
    #: Longest wait for an answer in seconds; set by `connect`.
    answer_timeout: float
    _timers: Timers | None = None
    _timer: Timer | None = None
    _gave_up = _begun = False
    _waits = _terminated = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = _Cursor

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server.

        Args:
            gen: The generator of psycopg that is to be run.
            *args: For psycopg.
            **kwargs: For psycopg.

        Returns:
            What *gen* returns.

        Raises:
            OperationalError: There was no answer in time; the connection is closed.
        """
        if self._timers is None:
            self._timers = choose_timers()
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
        """Count a transaction that was open at the last look and is not any more."""
        status = self.pgconn.transaction_status
        if status in _OPEN:
            self._begun = True
        elif self._begun and status == TransactionStatus.IDLE:  # in a pipeline it is ACTIVE
            self._begun = False
            self.ends += 1

    async def set_autocommit(self, value: bool) -> None:  # noqa: FBT001 -- psycopg's signature
        """Switch autocommit; statements sent while it is on cannot be rolled back."""
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
        # psycopg waits until its socket is readable; the shutdown makes it so.
        with socket.fromfd(self.pgconn.socket, -1, -1, -1) as line:
            line.shutdown(socket.SHUT_RDWR)

    def terminate(self) -> None:
        """Close the socket without contacting the server, even during a wait for an answer."""
        if self._waits and not self.closed:
            self._terminated = True  # the event loop still polls the socket
            self._hang_up()
        else:
            self.pgconn.finish()


def connect(
    *args: Any, answer_timeout: float, **kwargs: Any
) -> Coroutine[Any, Any, PatientConnection]:
    """Connect as `psycopg.AsyncConnection.connect` does, with a deadline for answers.

    It is not `async`: a suspended frame would expose the password among the variables of a
    traceback.

    Args:
        *args: For psycopg.
        answer_timeout: Longest wait for an answer of the server, in seconds.
        **kwargs: For psycopg.

    Returns:
        An awaitable of the connection.
    """
    return _opened(PatientConnection.connect(*args, **kwargs), answer_timeout)


async def _opened(
    connecting: Coroutine[Any, Any, PatientConnection], answer_timeout: float
) -> PatientConnection:
    connection = await connecting
    connection.answer_timeout = answer_timeout
    return connection
