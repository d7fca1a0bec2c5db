"""Handles what was stored: one update of a lane at a time, until it is done or parked."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.methods import TelegramMethod
from aiogram.types import Update

from db_manager import events as facts
from db_manager.delivery.again import Patience
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.gate import Gate
from db_manager.delivery.inbox.handling import CURRENT, Handling, RetryLaterError
from db_manager.delivery.inbox.updates import SUSPECT, Stored, Updates
from db_manager.delivery.table.members import Alone
from db_manager.sending import NotStorableError
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import is_draining
from lifecycle.error_text import tell
from lifecycle.event import Event

#: Updates that a process has at most, in `concurrency`; and most that one look brings.
_HELD: Final = 10
_MOST: Final = 500
#: Seconds before the second attempt, by what it grows, and longest wait.
_FIRST_WAIT, _GROWTH, _LONGEST_WAIT = 0.1, 3.0, 30.0
_LOOK: Final = 0.05
#: As of the outbox: seconds of search after a lost answer, and between searches without a cause.
_LOST: Final = 60.0
_SELDOM: Final = 30.0


class Inbox:
    """The updates that this process handles.

    Args:
        updates: The table.
        member: This process among others.
        dispatcher: Handles them.
        bots: The bots of this process.
        units: Makes units.
        config: The section [delivery].
        publish: Publishes an event.
    """

    def __init__(
        self,
        updates: Updates,
        member: Alone,
        dispatcher: Dispatcher,
        bots: Mapping[int, Bot],
        units: UnitOfWorkFactory,
        config: DeliveryConfig,
        publish: Callable[[Event], None],
    ) -> None:
        self._updates = updates
        self._member = member
        self._dispatcher = dispatcher
        self._bots = bots
        self._units = units
        self._config = config
        self._publish = publish
        self._again = Patience()
        self._gate = Gate()
        #: Through it goes who handles; alone is who may kill the process.
        self._quiet, self._one_alone = Gate(), asyncio.Lock()
        self._slots = asyncio.Semaphore(config.concurrency)
        self._held: dict[int, Stored] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Lanes in which more waits in the table; and those of them to look at soon.
        self._behind: set[str] = set()
        self._wanted: set[str] = set()
        self._wakes = asyncio.Event()
        self._is_ready = self._is_stopping = False
        self._lost_at = self._looked_at = self._forgot_at = float("-inf")
        self._searched_at = time.monotonic()

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
        self._behind.update(waiting)
        self._want(waiting)
        for update_id in repeated:
            self._publish(facts.UpdateRepeated(update_id=update_id))

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
        """Return how many updates this process has."""
        return {"held": len(self._held)}

    def _take(self, rows: Iterable[Stored]) -> None:
        for row in rows:
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
        while True:
            async with self._slots:
                if not await self._may_handle(row):
                    self._drop(row)
                    return
                if await self._try(handling):
                    break
            await asyncio.sleep(handling.wait or pause)
            pause, handling.wait = min(_GROWTH * pause, _LONGEST_WAIT), None
            # A COMMIT without an answer may have said that it is done, or others may have it.
            if not await self._again.until_done(partial(self._updates.is_mine, row)):
                break
        self._drop(row)
        if row.lane in self._behind or row.age:
            self._want([row.lane])

    async def _may_handle(self, row: Stored) -> bool:
        while not self._member.is_sure:  # noqa: ASYNC110 -- it depends on a clock
            await asyncio.sleep(_LOOK)
        mine = row.owner == self._member.me and self._held.get(row.id) is row
        return mine and not self._is_over

    def _drop(self, row: Stored) -> None:
        if self._held.get(row.id) is row:
            del self._held[row.id]

    async def _try(self, handling: Handling) -> bool:
        """Handle it once; return False when it is to be handled again."""
        row = handling.row
        if row.deaths < SUSPECT:
            await self._quiet.enter()
            try:
                return await self._attempt(handling)
            finally:
                self._quiet.leave()
        async with self._one_alone, self._quiet.alone():
            if row.deaths >= self._config.deaths:
                return await self._park(handling, f"its process died {row.deaths} times")
            await self._again.until_done(partial(self._updates.count_death, row))
            over = await self._attempt(handling)
            if not over:
                await self._again.until_done(partial(self._updates.forgive, row))
            return over

    async def _attempt(self, handling: Handling) -> bool:
        row = handling.row
        bot = self._bots[row.bot_id]
        token = CURRENT.set(handling)
        try:
            update = Update.model_validate_json(row.payload, context={"bot": bot})
            given = {"bots": tuple(self._bots.values()), "dispatcher": self._dispatcher}
            response = await self._dispatcher.feed_update(bot, update, **given)
            if handling.failure is None and not handling.is_done:
                return await self._complete(handling, bot, response)
            if isinstance(response, TelegramMethod):
                await self._send_beside(bot, response)
        except RetryLaterError as error:
            return self._retry(handling, error.__cause__ or error)
        except Exception as error:  # noqa: BLE001 -- aiogram logs it, and it is the update's
            if self._is_over:
                return False
            if not handling.is_done and handling.failure is None and handling.may_retry(error):
                return self._retry(handling, error)
            handling.failure = error
        finally:
            CURRENT.reset(token)
        if handling.is_done or handling.failure is None:
            return True
        return await self._park(handling, tell(handling.failure))

    def _retry(self, handling: Handling, error: BaseException) -> bool:
        handling.attempts += 1
        self._publish(
            facts.UpdateRetried(
                update_id=handling.row.update_id, attempts=handling.attempts, error=tell(error)
            )
        )
        return False

    async def _park(self, handling: Handling, error: str) -> bool:
        row, attempts = handling.row, handling.attempts + 1
        work = partial(self._updates.park, row, attempts, error)
        if await self._again.until_done(work):
            self._publish(facts.UpdateParked(update_id=row.update_id, error=error))
        return True

    async def _complete(self, handling: Handling, bot: Bot, response: Any) -> bool:
        """Say that it is done, and keep what the handler has returned; both or none."""
        row = handling.row
        if isinstance(response, TelegramMethod):
            try:
                async with self._units() as uow:
                    uow.send(response.as_(bot))
            except NotStorableError:
                await self._dispatcher.silent_call_request(bot, response)
            else:
                return True
        await self._again.until_done(partial(self._updates.done, row, handling.attempts + 1))
        return True

    async def _send_beside(self, bot: Bot, response: TelegramMethod[Any]) -> None:
        """Keep what was returned after a unit had said that the update is done."""
        try:
            async with self._units(detached=True) as uow:
                uow.send(response.as_(bot))
        except NotStorableError:
            await self._dispatcher.silent_call_request(bot, response)

    # -- the table ------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the table until this is cancelled."""
        if self._member.pause is None:  # what this process had in an earlier run is nobody's
            await self._again.until_done(self._recover)
        self._is_ready = True
        while True:
            await self._again.until_done(self._look)
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
                self._behind -= lanes - {row.lane for row in rows}
                self._take(rows)
            if time.monotonic() < self._looked_at + self._config.poll:
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

    async def _recover(self) -> None:
        if count := await self._updates.release():
            self._publish(facts.LanesRecovered(count=count))

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
