"""A connection pool that serves who waits in the order of their coming."""

import asyncio
from collections import deque
from typing import Any, TypeVar

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

from db_manager.deadlines import Deadlines

T = TypeVar("T")


class FairQueue(QueueCommon[T]):
    """The idle connections of a pool, and the line of those who wait for one.

    SQLAlchemy's own queue wakes one who waits and lets whoever runs first take the connection,
    so that under load some wait for ever; each wait costs a task and a timer. Here a connection
    is handed to the first of the line.

    Args:
        maxsize: How many idle connections are kept; 0 means any number.
        use_lifo: Hand out the one that was used last.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._idle: deque[T] = deque()
        self._line: deque[asyncio.Future[T]] = deque()
        self._deadlines: Deadlines | None = None

    def empty(self) -> bool:
        """Return True when no connection is idle."""
        return not self._idle

    def full(self) -> bool:
        """Return True when no more connections are kept."""
        return 0 < self.maxsize <= len(self._idle)

    def qsize(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    def put_nowait(self, item: T) -> None:
        """Hand *item* to the first of the line, or keep it.

        Raises:
            Full: Nobody waits, and enough are kept.
        """
        if not self._line and self.full():
            raise Full
        self._hand_over(item)

    def _hand_over(self, item: T) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        self._idle.append(item)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002 -- SQLAlchemy's signature; its pool never blocks here
        """Do as `put_nowait`."""
        self.put_nowait(item)

    def get_nowait(self) -> T:
        """Return an idle connection.

        Raises:
            Empty: There is none.
        """
        if not self._idle:
            raise Empty
        return self._idle.pop() if self.use_lifo else self._idle.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Return an idle connection, or stand in line for one; runs inside a greenlet.

        Args:
            block: Wait when there is none.
            timeout: Seconds to wait at most.

        Raises:
            Empty: There was none, or none in time.
        """
        if self._idle or not block:
            return self.get_nowait()
        return await_only(self._wait(timeout))

    async def _wait(self, timeout: float | None) -> T:  # noqa: ASYNC109 -- a deadline costs less than a scope
        loop = asyncio.get_running_loop()
        if self._deadlines is None or self._deadlines.loop is not loop:
            self._deadlines = Deadlines(loop)
        waiter: asyncio.Future[T] = loop.create_future()
        deadline = None
        if timeout is not None:
            deadline = self._deadlines.call_later(timeout, _expire, waiter)
        self._line.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # handed over while it was cancelled
                self._hand_over(waiter.result())
            raise
        finally:
            if deadline is not None:
                deadline.cancel()


def _expire(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(Empty())


class Entry(_ConnectionRecord):  # private there; guarded by a test
    """An entry of a pool that is never lost.

    SQLAlchemy forgets an entry when a step of its return raises: what resets an isolation level,
    or a listener of `checkin`. Ten times, and a pool of ten serves nobody any more.

    Args:
        pool: The pool it belongs to.
    """

    def __init__(self, pool: "FairQueuePool") -> None:
        super().__init__(pool)
        self._owner = pool
        #: True once the pool has it back.
        self.returned = False

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Give the entry back, without its connection when that cannot be made clean."""
        self.returned = False
        try:
            super().checkin(_fairy_was_created)
        except BaseException as error:
            if not self.returned:
                try:
                    self.invalidate(error)
                finally:
                    self._owner._return_conn(self)  # noqa: SLF001 -- the last step of SQLAlchemy's checkin
            raise


class FairQueuePool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for asyncio, with a line instead of a scramble, that loses no entry."""

    _queue_class: type[QueueCommon[ConnectionPoolEntry]] = FairQueue  # guarded by a test

    def _create_connection(self) -> ConnectionPoolEntry:
        return Entry(self)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if isinstance(record, Entry):
            record.returned = True
        super()._do_return_conn(record)
