"""The line of those who wait for what is scarce: a pool's connections, SQLite's one writer."""

import asyncio
from collections import OrderedDict, deque
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

from db_manager.running.timers import Timers

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
        self._line: OrderedDict[asyncio.Future[T], None] = OrderedDict()

    def empty(self) -> bool:
        """Return True when no connection is idle."""
        return not self._idle

    def full(self) -> bool:
        """Return True when no more connections are kept."""
        return 0 < self.maxsize <= len(self._idle)

    def qsize(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

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
            waiter, _ = self._line.popitem(last=False)
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

    def get(self, block: bool = True, timeout: float | None = None, *, first: bool = False) -> T:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Return an idle connection, or stand in line for one; runs inside a greenlet.

        Args:
            block: Wait when there is none.
            timeout: Seconds to wait at most.
            first: Stand at the head of the line: what came with one's turn was of no use.

        Raises:
            Empty: There was none, or none in time.
        """
        if self._idle or not block:
            return self.get_nowait()
        return await_only(self._wait(timeout, first=first))

    async def _wait(self, timeout: float | None, *, first: bool = False) -> T:  # noqa: ASYNC109 -- a deadline costs less than a scope
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        timer = None
        if timeout is not None:
            timer = Timers.current().call_later(timeout, self._expire, waiter)
        self._line[waiter] = None
        if first:
            self._line.move_to_end(waiter, last=False)
        got = False
        try:
            item = await waiter
            got = True
            return item
        finally:
            if timer is not None:
                timer.cancel()
            if not got:
                self._step_out(waiter)

    def _step_out(self, waiter: asyncio.Future[T]) -> None:
        """Take one out of the line who was cancelled or closed, or whom nothing will come for."""
        self._line.pop(waiter, None)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._hand_over(waiter.result())  # handed over meanwhile

    def _expire(self, waiter: asyncio.Future[Any]) -> None:
        self._line.pop(waiter, None)
        if not waiter.done():
            waiter.set_exception(Empty())

    def fail(self, error: BaseException) -> None:
        """Raise one like *error* in everyone who stands in the line now: nothing will come."""
        line, self._line = self._line, OrderedDict()
        for waiter in line:
            if not waiter.done():
                waiter.set_exception(_another(error))


def _another(error: BaseException) -> BaseException:
    """Return one like *error*, with that as its cause; *error* itself when that cannot be made.

    What several tasks raise gathers the frames of all of them in one traceback, and keeps them.
    """
    try:
        # Without its __init__, whose arguments may be others than those it has handed on.
        fresh = type(error).__new__(type(error), *error.args)
        fresh.args = error.args
        fresh.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 -- made in a way of its own
        return error
    fresh.__cause__ = error
    return fresh
