"""asyncpg's connection, which checks the server's answer to COMMIT."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, Final

import asyncpg
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from db_manager.dialects.ending_sql import (
    ABORT_TRANSACTION,
    ENDS,
    commits_itself,
    ending,
    ends_later,
)
from db_manager.errors import TransactionAbortedError
from db_manager.running.choose import choose_timers

#: Looked up once: every transaction calls it twice.
_execute: Final = asyncpg.Connection.execute


class CheckedConnection(asyncpg.Connection):
    """Notices when the server answers COMMIT with ROLLBACK, and counts ends of transactions.

    PostgreSQL answers so, without an error, if a statement of the transaction has failed. asyncpg
    ignores it. Here the unit learns of it without an extra round trip, whatever lane it used.
    """

    #: Its presence means that the dialect need not ask the server before COMMIT.
    reports_rollback = True
    #: Number of transactions that ended on it.
    ends = 0

    def __init__(self, protocol: Any, transport: Any, loop: Any, *args: Any) -> None:
        if isinstance(
            loop, _PatientLoop
        ):  # it is for the protocol only, and is not the running loop
            loop = loop.loop
        super().__init__(protocol, transport, loop, *args)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 -- the signature of asyncpg
        """Execute *query* and return the server's command tag.

        Raises:
            TransactionAbortedError: COMMIT was answered with ROLLBACK.
        """
        said = self.count(query)
        if ends_later(query):
            self.ends += 1  # before it is sent: its answer may be lost
        try:
            status: str = await _execute(self, query, *args, timeout=timeout)
        except Exception as error:
            await self.abort_transaction(error, timeout)
            raise
        if said == "COMMIT" and status == "ROLLBACK":
            raise TransactionAbortedError
        if status == "COMMIT" and not said:  # part of a script
            self.ends += 1
        return status

    def count(self, query: str) -> str:
        """Count the transaction that *query* ends; outside one, *query* is one by itself.

        Returns:
            The word with which *query* ends it; see `ending`.
        """
        said = ending(query)
        if said in ENDS or (
            commits_itself(query) and not (self.is_closed() or self.is_in_transaction())
        ):
            self.ends += 1  # before it is sent: its answer may be lost
        return said

    async def abort_transaction(self, error: Exception, timeout: float | None) -> None:  # noqa: ASYNC109 -- that of the statement
        """Abort the transaction at the server after a statement failed in the client.

        The server does not know of that failure: it would commit without the statement, or with
        the first half of an `executemany`. The transaction is aborted at the server because only
        the server knows which savepoint may undo that. If the connection's own timeout expired,
        the connection is closed instead: another answer would take as long again.

        Args:
            error: The error of the statement. After an error of the server nothing is sent.
            timeout: The `timeout` argument of the statement; None if the caller gave none.
        """
        answered = getattr(error, "severity", None) is not None
        if answered or self.is_closed() or not self.is_in_transaction():
            return
        if isinstance(error, TimeoutError) and timeout is None:
            self.terminate()
        else:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
                await super().execute(ABORT_TRANSACTION)


def _query(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the query among the arguments of a method of asyncpg's.

    The first argument of a method that copies into a table is the table's name. It is not a query,
    and counts as a write.
    """
    query: str = args[0] if args else kwargs.get("query", kwargs.get("command", "COPY"))
    return query


def _counting(name: str) -> Any:
    """Return asyncpg's method *name*, which then also counts ends of transactions."""
    method = getattr(asyncpg.Connection, name)

    @wraps(method)
    def counting(self: CheckedConnection, *args: Any, **kwargs: Any) -> Any:
        self.count(_query(args, kwargs))
        return method(self, *args, **kwargs)

    return counting


def _watching(name: str) -> Any:
    """Return the same, which also aborts the transaction after a failure in the client."""
    method = getattr(asyncpg.Connection, name)

    @wraps(method)
    async def watching(self: CheckedConnection, *args: Any, **kwargs: Any) -> Any:
        self.count(_query(args, kwargs))
        try:
            return await method(self, *args, **kwargs)
        except Exception as error:
            await self.abort_transaction(error, kwargs.get("timeout"))
            raise

    return watching


_COPIES = ("copy_from_query", "copy_records_to_table", "copy_to_table")
for _name in ("cursor", "prepare", *_COPIES):
    setattr(CheckedConnection, _name, _counting(_name))
for _name in ("executemany", "fetch", "fetchmany", "fetchrow", "fetchval"):
    setattr(CheckedConnection, _name, _watching(_name))


class _PatientLoop:
    """The event loop with cheap timers: asyncpg starts a timer for each answer it awaits.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.call_later = choose_timers().call_later
        #: Transports of an attempt to connect that has not succeeded yet.
        self.opened: list[asyncio.WriteTransport] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_connection(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Open a transport as the event loop does, and keep a reference to it."""
        made: tuple[Any, Any] = await self.loop.create_connection(*args, **kwargs)
        self.opened.append(made[0])
        return made


def connect(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, CheckedConnection]:
    """Connect as `asyncpg.connect` does, with `CheckedConnection` and cheap timers.

    It is not `async`: a suspended frame would expose the password among the variables of a
    traceback. A failed or cancelled attempt leaves no socket open, whatever the server does.

    Args:
        *args: For asyncpg.
        **kwargs: For asyncpg.

    Returns:
        An awaitable of the connection.
    """
    loop = _PatientLoop(asyncio.get_running_loop())
    options: Any = {"connection_class": CheckedConnection, "loop": loop}
    return _or_aborted(asyncpg.connect(*args, **options | kwargs), loop)


async def _or_aborted(
    connecting: Coroutine[Any, Any, CheckedConnection], loop: _PatientLoop
) -> CheckedConnection:
    """Return the connection, or abort the transports of the failed attempt.

    asyncpg closes them, but with TLS it waits up to 30 s for the server's close: a socket would
    outlive the attempt, and even its event loop.
    """
    try:
        connection = await connecting
    except BaseException as error:
        for transport in loop.opened:
            transport.abort()
        _translate(error)
        raise
    finally:
        loop.opened.clear()
    return connection


def _translate(error: BaseException) -> None:
    """Raise the adapter's error for *error* of asyncpg, as the adapter of SQLAlchemy 2.1 does.

    That of 2.0 translates errors of statements only, so that `DBAPIError` would not be raised.
    """
    if hasattr(exc, "EmulatedDBAPIException"):
        return
    classes: Any = AsyncAdapt_asyncpg_dbapi(asyncpg)._asyncpg_error_translate  # type: ignore[no-untyped-call]  # noqa: SLF001 -- guarded by a test
    for parent in type(error).__mro__:
        if parent in classes:
            translated = classes[parent](f"{type(error)}: {error}")
            translated.sqlstate = getattr(error, "sqlstate", None)
            raise translated from error
