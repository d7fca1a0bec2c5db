"""A connection pool that serves waiters first come, first served, for as long as it can."""

import asyncio
import random
import time
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet
from sqlalchemy.util.queue import Empty, QueueCommon

from db_manager.dialects.dialect import Dialect
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.fair_queue import FairQueue

#: Seconds between a refused attempt and the next one, while other connections are in use: the
#: first pause, and the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
#: Seconds between two replacements of aged connections.
REPLACING_PAUSE: Final = 1.0
#: Seconds that `dispose` waits for the attempts that it cancelled.
_CANCEL_TIME: Final = 1.0


class Entry(_ConnectionRecord):  # private there; guarded by a test
    """A place for one connection; it returns to the pool even if its checkin fails.

    SQLAlchemy loses an entry when a step of its checkin raises, for example the reset of the
    isolation level or a `checkin` listener. A pool of ten would be unusable after ten such errors.

    Args:
        pool: The pool it belongs to.
    """

    def __init__(self, pool: Pool) -> None:
        self.owner = pool
        #: True once it is back in the pool.
        self.returned = False
        super().__init__(pool)

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Return the entry to the pool, without its connection if resetting that fails."""
        self.returned = False
        try:
            super().checkin(_fairy_was_created)
        except BaseException as error:
            if not self.returned:
                try:
                    self.invalidate(error)
                finally:
                    self.owner._return_conn(self)  # noqa: SLF001 -- the last step of SQLAlchemy's checkin
            raise


class FairQueuePool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for asyncio, in which units do not fail when one attempt to connect fails.

    A unit that finds no idle connection waits in a queue, and the pool opens a connection in a
    separate task. Whichever comes first, a new connection or a returned one, goes to the first
    waiter. A failed attempt is an error for the waiters only if the pool has no connection left.
    Otherwise the pool tries again, one attempt at a time, with growing pauses.

    SQLAlchemy would make the unit that gets an old or dead connection wait for its replacement.
    Here a connection is checked before it leaves the pool, so a unit gets a live one.
    """

    _queue_class: type[QueueCommon[ConnectionPoolEntry]] = FairQueue  # guarded by a test
    _sqla_logger_namespace = "sqlalchemy.pool.FairQueuePool"  # quiet unless `sqlalchemy` is not
    _pool: FairQueue[ConnectionPoolEntry]
    entry: type[Entry] = Entry  #: What makes a place.

    def __init__(
        self,
        *args: Any,
        recycle: float = -1,
        pre_ping: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.know(Dialect())
        self._max_age = recycle
        self._asks = pre_ping
        self._suspected_before = 0.0  # what was opened before may have been lost silently
        self._entries: WeakSet[ConnectionPoolEntry] = WeakSet()
        self._attempts: dict[asyncio.Task[None], None] = {}  # oldest first
        #: The error of the last attempt, in one line; empty if it succeeded.
        self.refusal = ""
        self._refused_at = 0.0
        self._pause = FIRST_PAUSE
        #: The timer that ends the pause after a refusal.
        self._next_attempt: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop  # of the last waiter
        self._replaced_at = 0.0

    def know(self, dialect: Dialect) -> None:
        """Use *dialect* to check connections from now on."""
        self._dialect_known = dialect
        self.is_dead = dialect.is_dead

    def recreate(self) -> "FairQueuePool":
        """Return a new pool like this one, with no connections."""
        pool = super().recreate()
        assert isinstance(pool, FairQueuePool)  # noqa: S101 -- for mypy
        pool._max_age, pool._asks = self._max_age, self._asks  # noqa: SLF001 -- its own class
        pool.know(self._dialect_known)
        return pool

    def checkedout(self) -> int:
        """Return the number of connections in use."""
        return super().checkedout() - len(self._attempts)

    def has_connection(self) -> bool:
        """Return True if a connection, idle or in use, is not known to be lost."""
        is_closed = self._dialect_known.is_closed
        return any(
            entry.dbapi_connection is not None and not is_closed(entry.driver_connection)
            for entry in self._entries
        )

    def dispose(self) -> None:
        """Close idle connections, and cancel the attempts to open more."""
        attempts = tuple(self._attempts)
        for attempt in self._wanted_attempts():
            attempt.cancel()
        self._end_pause()
        if attempts and in_greenlet():
            await_only(asyncio.wait(attempts, timeout=_CANCEL_TIME))
        super().dispose()

    # -- checkout and return --------------------------------------------------------------

    def _do_get(self) -> ConnectionPoolEntry:
        queue, end = self._pool, 0.0
        while True:
            if not queue.idle:
                came_again = end > 0
                end = end or time.perf_counter() + self._timeout
                entry = self._wait_for_entry(end - time.perf_counter(), first=came_again)
            else:
                entry = queue.take()
            try:
                spent = self._is_spent(entry)
            except BaseException:
                self._discard(entry)
                raise
            if not spent:
                return entry
            self._discard(entry)

    def _is_spent(self, entry: Any) -> bool:
        """Return True if *entry* must not be handed out any more."""
        driver = self._dialect.get_driver_connection(entry.dbapi_connection)
        if self.is_dead(driver) or entry._soft_invalidate_time > entry.starttime:  # noqa: SLF001 -- as in SQLAlchemy's own pool
            return True
        if self._asks and not entry.fresh and not self._answers(entry):
            self._suspected_before = time.time()
            return True
        entry.fresh = False
        if self.refusal:  # the server gives no new one
            return False
        age = time.time() - entry.starttime
        return entry.starttime < self._suspected_before or (
            0 <= self._max_age < age and self._may_replace()
        )

    def _answers(self, entry: Any) -> bool:
        try:
            return bool(self._dialect._do_ping_w_event(entry.dbapi_connection))  # noqa: SLF001 -- as above
        except TimeoutError:  # raised by asyncpg
            return False

    def _may_replace(self) -> bool:
        """Return True if an old one may be replaced now: one at a time, while others serve."""
        now = time.time()
        if self._attempts or now - self._replaced_at < REPLACING_PAUSE:
            return False
        self._replaced_at = now
        return True

    def _discard(self, entry: ConnectionPoolEntry) -> None:
        try:
            entry.invalidate()
        finally:
            self._free_place()

    def _create_connection(self) -> ConnectionPoolEntry:
        return self.entry(self)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if isinstance(record, Entry):
            record.returned = True
        queue = self._pool
        if record.dbapi_connection is None:  # it was lost
            self._free_place()
        elif queue.waiters or 0 < queue.maxsize <= len(queue.idle):
            super()._do_return_conn(record)
        else:
            queue.idle.append(record)

    def _free_place(self) -> None:
        self._dec_overflow()
        if self._pool.waiting and not self._loop.is_closed():
            # The garbage collector may be the caller, in any thread.
            self._loop.call_soon_threadsafe(self._open_more)

    def _invalidate(
        self,
        connection: PoolProxiedConnection,
        exception: BaseException | None = None,
        _checkin: bool = True,  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
    ) -> None:
        record: Any = getattr(connection, "_connection_record", None)
        if record is None or self._suspected_before < record.starttime:
            self._suspected_before = time.time()
        if _checkin and connection.is_valid:
            connection.invalidate(exception)

    # -- new connections ------------------------------------------------------------------

    def _wait_for_entry(self, patience: float, *, first: bool) -> ConnectionPoolEntry:
        self._loop = asyncio.get_running_loop()
        self._open_more(1)
        try:
            return self._pool.get(timeout=patience, first=first)
        except BaseException as error:
            # An attempt without a waiter may hang; the next waiter must not depend on it.
            wanted = self._wanted_attempts()
            for attempt in wanted[: max(0, len(wanted) - self._pool.waiting)]:
                attempt.cancel()
            if not isinstance(error, Empty):
                raise
        more = f"; the server refuses more: {self.refusal}" if self.refusal else ""
        raise exc.TimeoutError(f"no connection became free in {self._timeout:.2f} s{more}")

    def _wanted_attempts(self) -> list["asyncio.Task[None]"]:
        return [attempt for attempt in self._attempts if not attempt.cancelling()]

    def _open_more(self, coming: int = 0) -> None:
        """Start opening a connection for each waiter, present or *coming*, up to the limit."""
        if self._next_attempt is not None and self.has_connection():
            return
        most = self._pool.waiting + coming
        if self.refusal:
            most = min(most, 1)
        for _ in range(most - len(self._wanted_attempts())):
            if not self._inc_overflow():
                return
            # Without the loop's task factory: an eager task would start inside this greenlet.
            attempt = asyncio.Task(greenlet_spawn(self._attempt), loop=self._loop)
            self._attempts[attempt] = None
            attempt.add_done_callback(self._attempt_ended)

    def _end_pause(self) -> None:
        if self._next_attempt is not None:
            self._next_attempt.cancel()
            self._next_attempt = None

    def _ask_again(self) -> None:
        self._end_pause()
        self._open_more()

    def _attempt(self) -> None:
        """Open a connection for the first waiter; runs in a separate task."""
        began = self._loop.time()
        entry = self._create_connection()
        del self._attempts[asyncio.current_task()]  # type: ignore[arg-type]  # it runs in a task
        self._entries.add(entry)
        if began >= self._refused_at:  # otherwise the server has refused a later attempt
            self._end_pause()
            self.refusal, self._pause = "", FIRST_PAUSE
        self._do_return_conn(entry)
        self._open_more()

    def _attempt_ended(self, attempt: "asyncio.Task[None]") -> None:
        error = None if attempt.cancelled() else attempt.exception()
        if attempt not in self._attempts:  # it opened a connection
            if error is not None:
                raise error  # the loop reports it
            return
        del self._attempts[attempt]
        if error is None:
            self._free_place()
            return
        self._dec_overflow()
        self.refusal, self._refused_at = connection_text(error), self._loop.time()
        if self._next_attempt is None:  # attempts that fail together count as one refusal
            pause = self._pause * random.uniform(0.8, 1.2)  # noqa: S311 -- not for secrecy
            self._next_attempt = self._loop.call_later(pause, self._ask_again)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if not self._attempts and not self.has_connection():
            self._pool.fail(error)
