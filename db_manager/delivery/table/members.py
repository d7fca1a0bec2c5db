"""The processes that share a table: each says that it lives, and doubts itself in time."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.delivery.table.at_once import AtOnce
from db_manager.dialects.known import dialect_of

#: Shares of a lease: between two signs of life, until this one doubts itself, and the longest gap
#: after which it still judges others.
_PULSE: Final = 0.25
_FENCE: Final = 0.8
_GAP: Final = 0.5
_LARGEST: Final = 2**63 - 1
#: Seconds; nobody is asked more often.
_SOON: Final = 0.01

_JOIN: Final = "INSERT INTO delivery__member (id, name, seen_at) VALUES (:me, :name, {now})"
_PULSE_SQL: Final = "UPDATE delivery__member SET seen_at = {now} WHERE id = :me"
_JUDGE: Final = "DELETE FROM delivery__member WHERE {silent} > :lease"
_LEAVE: Final = "DELETE FROM delivery__member WHERE id = :me"


class Alone:
    """The only process of a SQLite file: nobody takes anything from it."""

    #: Its number; 0 before it joins.
    me = 0

    async def join(self) -> None:
        """Begin."""
        self.me = 1

    async def pulse(self) -> None:
        """Do nothing."""

    async def judge(self) -> bool:
        """Return False: nobody is judged."""
        return False

    async def leave(self) -> None:
        """End."""
        self.me = 0

    @property
    def is_sure(self) -> bool:
        """True while nobody else can think it dead."""
        return self.me != 0

    @property
    def sure_for(self) -> float | None:
        """Seconds after which it has to be asked again whether it is sure; None: for ever."""
        return None

    @property
    def pause(self) -> float | None:
        """Seconds between two signs of life; None: there are none."""
        return None


class Member(Alone):
    """This process among others: its row says when it was seen.

    It judges others only when it has had the database for a whole lease without a break: after an
    outage all look dead. It asks its own clock whether others may think it dead.

    Args:
        engine: The engine, with connections for it.
        lease: Seconds without a sign of life after which a member is dead.
        on_expelled: Called with its number when others have judged it dead.
        on_joined: Called with its new number.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        lease: float,
        on_expelled: Callable[[int], None],
        on_joined: Callable[[int], None],
    ) -> None:
        self._at_once = AtOnce(engine)
        self._lease = lease
        self._on_expelled = on_expelled
        self._on_joined = on_joined
        dialect = dialect_of(engine.dialect)
        now = dialect.moment_now
        silent = dialect.seconds_between.format(end=now, begin="seen_at")
        self._join, self._pulse, self._judge, self._leave = (
            text(sql.format(now=now, silent=silent)) for sql in (_JOIN, _PULSE_SQL, _JUDGE, _LEAVE)
        )
        #: When the last sign of life that was answered was sent; and the first of those without a
        #: break.
        self._seen_at = self._since = float("-inf")

    @property
    def is_sure(self) -> bool:
        """True while nobody else can think it dead."""
        return self.me != 0 and _now() - self._seen_at < _FENCE * self._lease

    @property
    def sure_for(self) -> float | None:
        """Seconds after which it has to be asked again whether it is sure."""
        left = self._seen_at + _FENCE * self._lease - _now()
        return max(_SOON, min(left, _PULSE * self._lease))

    @property
    def pause(self) -> float | None:
        """Seconds between two signs of life."""
        return _PULSE * self._lease

    async def join(self) -> None:
        """Become a member, with a number that nobody had."""
        sent_at, me = _now(), random.randint(1, _LARGEST)  # noqa: S311 -- a name, no secret
        name = f"{socket.gethostname()}:{os.getpid()}"[:255]
        await self._execute(self._join, me=me, name=name)
        self.me, self._seen_at, self._since = me, sent_at, sent_at
        self._on_joined(me)

    async def pulse(self) -> None:
        """Say that it lives.

        Raises:
            Exception: The database is away; say it again.
        """
        sent_at = _now()
        if sent_at - self._seen_at > _GAP * self._lease:
            self._since = sent_at
        try:
            known = await self._execute(self._pulse, me=self.me)
        except BaseException:
            self._since = float("inf")  # until the next that is answered
            raise
        if not known:
            expelled, self.me = self.me, 0
            self._on_expelled(expelled)
            await self.join()
            return
        self._seen_at, self._since = sent_at, min(self._since, sent_at)

    async def judge(self) -> bool:
        """Judge who is dead, if that is fair.

        Returns:
            Whether it was: what the dead had may be released.
        """
        if not self.is_sure or self._seen_at - self._since < self._lease:
            return False
        await self._execute(self._judge, lease=self._lease)
        return True

    async def leave(self) -> None:
        """Be a member no more: others need not wait."""
        me, self.me = self.me, 0
        await self._execute(self._leave, me=me)

    async def _execute(self, statement: Any, **parameters: Any) -> int:
        # After an outage all are heard again before one of them has lived for a whole lease: what
        # hangs is given up in half of it, and a sign of life is tried again after a quarter.
        async with asyncio.timeout(_GAP * self._lease):
            return await self._at_once.count(statement, parameters)


def _now() -> float:
    """Return seconds on a clock that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
