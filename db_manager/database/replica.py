"""The read replica of a database: used while it answers, left alone for a while otherwise."""

import asyncio
import time
from contextvars import Context
from typing import Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.ping import ping
from db_manager.dialects.safe_text import connection_text
from db_manager.events import ReplicaLost, ReplicaRecovered
from lifecycle.bus import EventBus

#: Seconds for which a replica that failed is left alone.
REST: Final = 5.0


class Replica:
    """Gives connections to a read replica, or none while the database itself is to answer.

    After a failure it rests. The first unit that wants it after that has it asked in a task, so
    that no unit waits for a replica that is known to be lost.

    Args:
        engine: Its engine.
        database: What events call its database.
        bus: Where its loss and its return are published, once for each change.
    """

    def __init__(self, engine: AsyncEngine, database: str, bus: EventBus) -> None:
        self.engine = engine
        self._database = database
        self._bus = bus
        #: Why it rests, in one line; empty while it is used.
        self.reason = ""
        self._lost_at = self._rests_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    def connect(self) -> Connection | None:
        """Return a connection to it, or None while it rests; runs inside a greenlet."""
        if self.reason:
            self._ask_again()
            return None
        try:
            return self.engine.sync_engine.connect()
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with it, the database answers
            self.rest(connection_text(error))
            return None

    def rest(self, reason: str) -> None:
        """Leave it alone for a while.

        Args:
            reason: Why, in one line.
        """
        now = time.monotonic()
        self._rests_until = now + REST
        was_used, self.reason = not self.reason, reason
        if was_used:
            self._lost_at = now
            self._bus.publish(ReplicaLost(reason=reason, database=self._database))

    def _ask_again(self) -> None:
        if self._asking is None and time.monotonic() >= self._rests_until:
            loop = asyncio.get_running_loop()
            # Without the loop's task factory: an eager task would start inside this greenlet. In an
            # empty context, not that of the unit.
            self._asking = asyncio.Task(self._ask(), loop=loop, context=Context())

    async def _ask(self) -> None:
        try:
            await ping(self.engine)
        except Exception as error:  # noqa: BLE001 -- as in `connect`
            self.rest(connection_text(error))
        else:
            self.reason = ""
            duration = time.monotonic() - self._lost_at
            self._bus.publish(ReplicaRecovered(duration=duration, database=self._database))
        finally:
            self._asking = None

    def forget_loop(self) -> None:
        """Forget the task of an event loop that is gone."""
        self._asking = None

    async def stop_asking(self) -> None:
        """Ask it no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    def levels(self) -> dict[str, float]:
        """Return the numbers of connections (allowed, idle, used), and 1 while it rests."""
        pool: Any = self.engine.sync_engine.pool
        return {
            "size": pool.size(),
            "idle": pool.checkedin(),
            "used": pool.checkedout(),
            "resting": float(bool(self.reason)),
        }
