"""A fair queue: waiters are served first come, first served."""

import asyncio
from collections import OrderedDict, deque
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

from db_manager.running.choose import choose_timers

T = TypeVar("T")


class FairQueue(QueueCommon[T]):
    """The idle connections of a pool, and the waiters for one.

    SQLAlchemy's own queue wakes a waiter, but any task that runs first can take the connection, so
    that a waiter may starve under load; each wait also costs a task and a timer. Here a connection
    is handed directly to the first waiter. SQLite's one writer is queued for in the same way.

    Args:
        maxsize: Most idle connections that are kept; 0 means no limit.
        use_lifo: Hand out the most recently used connection first.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.idle: deque[T] = deque()
        #: Returns one that is idle: the one that was used last, or longest ago.
        self.take = self.idle.pop if use_lifo else self.idle.popleft
        #: Who waits, in order.
        self.waiters: OrderedDict[asyncio.Future[T], None] = OrderedDict()

    def empty(self) -> bool:
        """Return True when no connection is idle."""
        return not self.idle

    def full(self) -> bool:
        """Return True when as many idle connections are kept as may be."""
        return 0 < self.maxsize <= len(self.idle)

    def qsize(self) -> int:
        """Return the number of idle connections."""
        return len(self.idle)

    @property
    def waiting(self) -> int:
        """Number of waiters."""
        return len(self.waiters)

    def put_nowait(self, item: T) -> None:
        """Hand *item* to the first waiter, or keep it.

        Raises:
            Full: There is no waiter, and enough are kept.
        """
        if self.waiters:
            self._hand_over(item)
        elif 0 < self.maxsize <= len(self.idle):  # `full` inlined: the path of every connection
            raise Full
        else:
            self.idle.append(item)

    def _hand_over(self, item: T) -> None:
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(item)
                return
        self.idle.append(item)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002 -- SQLAlchemy's signature; its pool never blocks here
        """Call `put_nowait`."""
        self.put_nowait(item)

    def get_nowait(self) -> T:
        """Return an idle connection.

        Raises:
            Empty: There is none.
        """
        if not self.idle:
            raise Empty
        return self.take()

    def get(self, block: bool = True, timeout: float | None = None, *, first: bool = False) -> T:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Return an idle connection, or wait for one; runs inside a greenlet.

        Args:
            block: Wait if none is idle.
            timeout: Longest wait in seconds.
            first: Wait at the head of the queue, because the connection received before was
                unusable.

        Raises:
            Empty: No connection was idle, or none became free in time.
        """
        if self.idle or not block:
            return self.get_nowait()
        return await_only(self._wait(timeout, first=first))

    async def _wait(self, timeout: float | None, *, first: bool = False) -> T:  # noqa: ASYNC109 -- a deadline costs less than a scope
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        timer = None
        if timeout is not None:
            timer = choose_timers().call_later(timeout, self._expire, waiter)
        self.waiters[waiter] = None
        if first:
            self.waiters.move_to_end(waiter, last=False)
        got = False
        try:
            item = await waiter
            got = True
            return item
        finally:
            if timer is not None:
                timer.cancel()
            if not got:
                self._leave(waiter)

    def _leave(self, waiter: asyncio.Future[T]) -> None:
        """Remove a waiter that was cancelled, closed or failed."""
        self.waiters.pop(waiter, None)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._hand_over(waiter.result())  # it was handed a connection just before

    def _expire(self, waiter: asyncio.Future[Any]) -> None:
        self.waiters.pop(waiter, None)
        if not waiter.done():
            waiter.set_exception(Empty())

    def fail(self, error: BaseException) -> None:
        """Raise a copy of *error* in every current waiter: no connection will come."""
        waiters, self.waiters = self.waiters, OrderedDict()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(_copy(error))


def _copy(error: BaseException) -> BaseException:
    """Return a copy of *error* with *error* as its cause; *error* itself if it cannot be copied.

    One error object raised in several tasks would collect the frames of all of them in its
    traceback, and keep them alive.
    """
    try:
        # Without __init__, whose parameters may differ from `args`.
        fresh = type(error).__new__(type(error), *error.args)
        fresh.args = error.args
        fresh.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 -- the class cannot be copied this way
        return error
    fresh.__cause__ = error
    return fresh
