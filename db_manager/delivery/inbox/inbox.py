"""Handles what was stored: one update of a lane at a time, until it is done or parked."""

import asyncio
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiogram import Bot, Dispatcher

from db_manager import events as facts
from db_manager.delivery.again import Patience
from db_manager.delivery.behind import Behind
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.gate import Gate
from db_manager.delivery.inbox.attempts import Attempts
from db_manager.delivery.inbox.handling import Handling
from db_manager.delivery.inbox.updates import Stored, Updates
from db_manager.delivery.table.members import Alone
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import is_draining
from lifecycle.bus import EventBus

#: Updates that a process has at most, in `concurrency`; and most that one look brings.
_HELD: Final = 10
_MOST: Final = 500
#: Seconds before the second attempt, by what it grows, and longest wait.
_FIRST_WAIT, _GROWTH, _LONGEST_WAIT = 0.1, 3.0, 30.0
_LOOK: Final = 0.05
#: As of the outbox: seconds of search after a lost answer, and between searches without a cause.
_LOST: Final = 60.0
_SELDOM: Final = 30.0
#: Seconds between two counts of what is open.
_COUNTED: Final = 2.0


class Inbox:
    """The updates that this process handles.

    Args:
        updates: The table.
        member: This process among others.
        dispatcher: Handles them.
        bots: The bots of this process.
        units: Makes units.
        config: The section [delivery].
        bus: Where it is told what becomes of updates.
        behind: Told what waits.
    """

    def __init__(
        self,
        updates: Updates,
        member: Alone,
        dispatcher: Dispatcher,
        bots: Mapping[int, Bot],
        units: UnitOfWorkFactory,
        config: DeliveryConfig,
        bus: EventBus,
        behind: Behind,
    ) -> None:
        self._updates = updates
        self._member = member
        self._dispatcher = dispatcher
        self._bots = bots
        self._config = config
        self._bus = bus
        self._stored = bus.channel(facts.UpdateStored)
        self._behind = behind
        self._open, self._oldest = 0, 0.0
        self._again = Patience()
        self._attempts = Attempts(updates, dispatcher, bots, units, self._again, config, bus)
        self._gate = Gate()
        self._slots = asyncio.Semaphore(config.concurrency)
        self._held: dict[int, Stored] = {}
        #: As whom this process polls, by bot.
        self._polls: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Lanes in which more waits in the table; and those of them to look at soon.
        self._more: set[str] = set()
        self._wanted: set[str] = set()
        self._wakes = asyncio.Event()
        self._is_ready = self._is_stopping = False
        self._lost_at = self._looked_at = self._forgot_at = self._counted_at = float("-inf")
        self._searched_at = self._begun_at = time.monotonic()

    # -- receiving ------------------------------------------------------------------------

    async def receive(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store *rows*; when this returns, Telegram may forget them.

        Raises:
            Exception: The database did not store them.
        """
        await self._gate.enter()
        try:
            claimed, waiting, repeated = await self._updates.store(rows, self._claims_as)
            self._take(claimed)
        except BaseException:
            self._lost()
            raise
        finally:
            self._gate.leave()
        self._more.update(waiting)
        self._want(waiting)
        bot_id = rows[0]["bot_id"]
        new = len(rows) - len(repeated)
        if new and rows[0]["update_id"] and self._stored.handlers:
            self._stored.publish(facts.UpdateStored(bot_id=bot_id, count=new))
        for update_id in filter(None, repeated):
            self._bus.publish(facts.UpdateRepeated(bot_id=bot_id, update_id=update_id))

    async def may_poll(self, bot: Bot) -> bool:
        """Return True if this process asks Telegram for updates of *bot*: one of them all does.

        Who has the row with the number 0 does. It waits a moment before it says no.
        """
        if bot.id not in self._polls:
            lane = f"{bot.id}:poll"
            await self.receive([{"bot_id": bot.id, "update_id": 0, "lane": lane, "payload": ""}])
            self._polls.setdefault(bot.id, 0)
        if not self._polls_as(bot):
            await asyncio.sleep(self._config.poll)
        return self._polls_as(bot)

    async def while_it_polls(self, bot: Bot, request: Coroutine[Any, Any, Any]) -> Any:
        """Return what *request* does, a getUpdates; None when others may begin theirs before."""
        asking = asyncio.create_task(request)
        try:
            while not asking.done():
                if not self._polls_as(bot):
                    return None
                await asyncio.wait({asking}, timeout=self._member.sure_for)
            return asking.result()
        finally:
            asking.cancel()

    def _polls_as(self, bot: Bot) -> bool:
        return self._member.is_sure and self._polls[bot.id] == self._member.me

    @property
    def _claims_as(self) -> int:
        free = self._room > 0 and self._is_ready and not self._is_over
        return self._member.me if free and self._member.is_sure else 0

    @property
    def _room(self) -> int:
        return _HELD * self._config.concurrency - len(self._held)

    @property
    def _is_over(self) -> bool:
        return self._is_stopping or is_draining(self._dispatcher)

    def levels(self) -> dict[str, float]:
        """Return what is open in the table, and how much of it this process has."""
        return {"open": self._open, "oldest": self._oldest, "held": len(self._held)}

    def _take(self, rows: Iterable[Stored]) -> None:
        for row in rows:
            if not row.update_id:
                self._polls[row.bot_id] = row.owner
                continue
            known = self._held.get(row.id)
            if known is not None and known.owner == row.owner:
                continue
            self._held[row.id] = row
            task = asyncio.create_task(self._handle(row), name=f"update {row.update_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _want(self, lanes: Collection[str]) -> None:
        mine = {row.lane for row in self._held.values()}  # its end looks for the next
        if wanted := {lane for lane in lanes if lane not in mine}:
            self._wanted |= wanted
            self._wakes.set()

    def _lost(self) -> None:
        self._lost_at = time.monotonic()
        self._wakes.set()

    # -- one update -----------------------------------------------------------------------

    async def _handle(self, row: Stored) -> None:
        handling, pause = Handling(row, self._updates, self._config), _FIRST_WAIT
        if row.deaths == self._config.deaths - 1:
            # Its last chance is not taken while something else may be killing this process.
            await asyncio.sleep(self._begun_at + self._config.lease - time.monotonic())
        while True:
            async with self._slots:
                if not await self._may_handle(row):
                    self._drop(row)
                    return
                if await self._attempts.handle(handling):
                    break
            await asyncio.sleep(handling.wait or pause)
            pause, handling.wait = min(_GROWTH * pause, _LONGEST_WAIT), None
            # A COMMIT without an answer may have said that it is done, or others may have it.
            if not await self._again.until_done(partial(self._updates.is_mine, row)):
                await self._attempts.lost(handling)
                self._lost()  # a look may have claimed it again meanwhile, and found it known
                break
        self._drop(row)
        if row.lane in self._more or row.age:
            self._want([row.lane])

    async def _may_handle(self, row: Stored) -> bool:
        while not self._member.is_sure:  # noqa: ASYNC110 -- it depends on a clock
            await asyncio.sleep(_LOOK)
        mine = row.owner == self._member.me and self._held.get(row.id) is row
        return mine and not self._is_over

    def _drop(self, row: Stored) -> None:
        if self._held.get(row.id) is row:
            del self._held[row.id]

    # -- the table ------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the table until this is cancelled."""
        if self._member.pause is None:  # what this process had in an earlier run is nobody's
            await self._again.until_done(self._recover)
        self._is_ready = True
        while True:
            await self._again.until_done(self._look)
            await self._again.until_done(self._count)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.poll):
                    await self._wakes.wait()

    async def _look(self) -> None:
        self._wakes.clear()
        if not self._claims_as:
            return
        try:
            await self._search()
            lanes, self._wanted = self._wanted, set()
            if lanes:
                rows = await self._updates.claim_in(self._member.me, lanes)
                self._more -= lanes - {row.lane for row in rows}
                self._take(rows)
            if time.monotonic() < self._looked_at + self._config.soonest:
                return
            if await self._member.judge():
                await self._recover()
            most = min(self._room, _MOST)
            self._take(await self._updates.claim(self._member.me, self._bots, most))
        except BaseException:
            self._lost()
            raise
        self._looked_at = time.monotonic()
        if self._looked_at > self._forgot_at + _SELDOM:
            await self._updates.forget(self._config.keep)
            self._forgot_at = self._looked_at

    async def _count(self) -> None:
        """Count what is open, now and then."""
        if time.monotonic() > self._counted_at + _COUNTED:
            self._open, self._oldest = await self._updates.levels()
            self._counted_at = time.monotonic()
            self._behind.note("updates", self._open, self._oldest)

    async def _recover(self) -> None:
        if count := await self._updates.release():
            self._bus.publish(facts.LanesRecovered(count=count))

    async def _search(self) -> None:
        """Look for rows that are this process's and unknown to it, after an answer was lost."""
        now = time.monotonic()
        if now - self._lost_at > _LOST and now - self._searched_at < _SELDOM:
            return
        async with self._gate.alone():
            self._take(await self._updates.mine(self._member.me))
        self._searched_at = now

    async def stop(self) -> None:
        """Let others have what is not handled."""
        self._is_stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._updates.give_back(self._member.me)
