"""asyncpg's connection, with an ear for what the server really answered to COMMIT."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, Final

import asyncpg

from db_manager.dialects.ending_sql import ENDS, SPOIL, commits_itself, ending, ends_later
from db_manager.errors import TransactionAbortedError
from db_manager.running.timers import Timers

#: Bound once: every transaction comes this way twice.
_execute: Final = asyncpg.Connection.execute


class CheckedConnection(asyncpg.Connection):
    """Notices that the server answered COMMIT with ROLLBACK.

    PostgreSQL does so, without an error, when a statement of the transaction had failed; asyncpg
    does not look. Whatever lane the statement took, the unit learns it here for free.
    """

    #: Says to the unit that it need not ask the server itself.
    hears_rollback = True
    #: How many transactions ended on it so far.
    ends = 0

    def __init__(self, protocol: Any, transport: Any, loop: Any, *args: Any) -> None:
        if isinstance(loop, _PatientLoop):  # the protocol's alone: it is nobody's running loop
            loop = loop.loop
        super().__init__(protocol, transport, loop, *args)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 -- the signature of asyncpg
        """Execute *query* and return the server's command tag.

        Raises:
            TransactionAbortedError: COMMIT was answered with ROLLBACK.
        """
        said = self.tell(query)
        if ends_later(query):
            self.ends += 1  # now: its answer may be lost
        try:
            status: str = await _execute(self, query, *args, timeout=timeout)
        except Exception as error:
            await self.spoil(error, timeout)
            raise
        if said == "COMMIT" and status == "ROLLBACK":
            raise TransactionAbortedError
        if status == "COMMIT" and not said:  # of a script
            self.ends += 1
        return status

    def tell(self, query: str) -> str:
        """Count the transaction that *query* ends or, where none is begun, is by itself.

        Returns:
            The word that ends it, as `ending` does.
        """
        said, begun = ending(query), self.is_closed() or self.is_in_transaction()
        if said in ENDS or (not begun and commits_itself(query)):
            self.ends += 1  # now: its answer may be lost
        return said

    async def spoil(self, error: Exception, timeout: float | None) -> None:  # noqa: ASYNC109 -- it was that of the statement
        """Let the server refuse the transaction of a statement that failed at its client.

        The server does not know of it, and would commit without it, or the first half of an
        `executemany`. It is the one that keeps book of savepoints, so it is told. Not when it gave
        no answer within the connection's own time: it would be waited for as long again.

        Args:
            error: What the statement failed with; one of the server's own needs nothing more.
            timeout: What the caller said of its time.
        """
        answered = getattr(error, "severity", None) is not None
        if answered or self.is_closed() or not self.is_in_transaction():
            return
        if isinstance(error, TimeoutError) and timeout is None:
            self.terminate()
        else:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
                await super().execute(SPOIL)


def _query(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the query among the arguments of a method of asyncpg's.

    The first argument of what copies into a table is the table: that is no query, and writes.
    """
    query: str = args[0] if args else kwargs.get("query", kwargs.get("command", "COPY"))
    return query


def _counting(name: str) -> Any:
    """Return asyncpg's method *name*, with an eye for the transaction that its query ends."""
    method = getattr(asyncpg.Connection, name)

    @wraps(method)
    def count(self: CheckedConnection, *args: Any, **kwargs: Any) -> Any:
        self.tell(_query(args, kwargs))
        return method(self, *args, **kwargs)

    return count


def _watching(name: str) -> Any:
    """Return the same, with an eye for a failure that the server knows nothing of."""
    method = getattr(asyncpg.Connection, name)

    @wraps(method)
    async def watch(self: CheckedConnection, *args: Any, **kwargs: Any) -> Any:
        self.tell(_query(args, kwargs))
        try:
            return await method(self, *args, **kwargs)
        except Exception as error:
            await self.spoil(error, kwargs.get("timeout"))
            raise

    return watch


_COPIES = ("copy_from_query", "copy_records_to_table", "copy_to_table")
for _name in ("cursor", "prepare", *_COPIES):
    setattr(CheckedConnection, _name, _counting(_name))
for _name in ("executemany", "fetch", "fetchmany", "fetchrow", "fetchval"):
    setattr(CheckedConnection, _name, _watching(_name))


class _PatientLoop:
    """The event loop, with cheap timers: asyncpg arms one for each answer it waits for.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.call_later = Timers.current().call_later
        #: Transports of attempts to connect that are not known to have succeeded.
        self.opened: list[asyncio.WriteTransport] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_connection(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Open a transport as the event loop does, and remember it."""
        made: tuple[Any, Any] = await self.loop.create_connection(*args, **kwargs)
        self.opened.append(made[0])
        return made


def connect(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, CheckedConnection]:
    """Connect as `asyncpg.connect` does, with a connection that hears and cheap timers.

    It is not `async`: a frame of ours that waits would show the password beside a traceback.
    An attempt that failed or was cancelled leaves no socket open, whatever the server does.

    Args:
        *args: For asyncpg.
        **kwargs: For asyncpg.

    Returns:
        What gives the connection when it is awaited.
    """
    loop = _PatientLoop(asyncio.get_running_loop())
    options: Any = {"connection_class": CheckedConnection, "loop": loop}
    return _whole(asyncpg.connect(*args, **options | kwargs), loop)


async def _whole(
    connecting: Coroutine[Any, Any, CheckedConnection], loop: _PatientLoop
) -> CheckedConnection:
    """Give the connection, or leave nothing of the attempt.

    asyncpg closes what an attempt opened, but in TLS that means to wait for the server's goodbye,
    for up to 30 s: the socket would outlive the attempt, and even its event loop.
    """
    try:
        connection = await connecting
    except BaseException:
        for transport in loop.opened:
            transport.abort()
        raise
    finally:
        loop.opened.clear()
    return connection
