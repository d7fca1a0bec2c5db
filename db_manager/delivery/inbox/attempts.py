"""Handles an update once, and says whether that is the end of it."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.methods import TelegramMethod
from aiogram.types import Update

from db_manager import events as facts
from db_manager.delivery.again import Patience
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.gate import Gate
from db_manager.delivery.inbox.handling import (
    CURRENT,
    Handling,
    RetryLaterError,
    UpdateTakenError,
)
from db_manager.delivery.inbox.updates import SUSPECT, Updates
from db_manager.sending import NotStorableError
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import is_draining
from lifecycle.bus import EventBus
from lifecycle.error_text import tell


class Attempts:
    """Lets a dispatcher handle updates, and writes what became of each.

    Args:
        updates: The table.
        dispatcher: Handles them.
        bots: The bots of this process.
        units: Makes units.
        again: Repeats statements.
        config: The section [delivery].
        bus: Where it is told what becomes of each.
    """

    def __init__(
        self,
        updates: Updates,
        dispatcher: Dispatcher,
        bots: Mapping[int, Bot],
        units: UnitOfWorkFactory,
        again: Patience,
        config: DeliveryConfig,
        bus: EventBus,
    ) -> None:
        self._updates = updates
        self._dispatcher = dispatcher
        self._bots = bots
        self._units = units
        self._again = again
        self._config = config
        self._bus = bus
        self._done = bus.channel(facts.UpdateDone)
        #: Through it goes who handles; alone is who may kill the process.
        self._quiet, self._one_alone = Gate(), asyncio.Lock()

    async def handle(self, handling: Handling) -> bool:
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
        handling.is_running = True
        try:
            update = Update.model_validate_json(row.payload, context={"bot": bot})
            given = {"bots": tuple(self._bots.values()), "dispatcher": self._dispatcher}
            response = await self._dispatcher.feed_update(bot, update, **given)
            if handling.failure is None and not handling.is_done:
                return await self._complete(handling, bot, response)
            if isinstance(response, TelegramMethod):
                await self._keep(bot, response, detached=True)
        except RetryLaterError as error:
            return self._retry(handling, error.__cause__ or error)
        except Exception as error:  # noqa: BLE001 -- aiogram logs it, and it is the update's
            if is_draining(self._dispatcher):
                return False
            if not handling.is_done and handling.failure is None and handling.may_retry(error):
                return self._retry(handling, error)
            handling.failure = error
        finally:
            handling.is_running = False
            CURRENT.reset(token)
        if handling.is_done or handling.failure is None:
            self._tell_end(handling, handling.attempts + 1)
            return True
        return await self._park(handling, tell(handling.failure))

    def _retry(self, handling: Handling, error: BaseException) -> bool:
        handling.attempts += 1
        if not isinstance(error, UpdateTakenError):
            about = _about(handling, handling.attempts)
            self._bus.publish(facts.UpdateRetried(**about, error=tell(error)))
        return False

    async def lost(self, handling: Handling) -> None:
        """Tell what has become of an update that is this process's no more."""
        is_done = handling.may_be_done
        if is_done:
            is_done = await self._again.until_done(partial(self._updates.is_done, handling.row))
        self._tell_end(handling, handling.attempts, is_done=is_done)

    def _tell_end(self, handling: Handling, attempts: int, *, is_done: bool = True) -> None:
        if not is_done:
            self._bus.publish(facts.UpdateTaken(**_about(handling, attempts)))
        elif self._done.handlers:
            about = _about(handling, attempts)
            self._done.publish(facts.UpdateDone(**about, wait=handling.age))

    async def _park(self, handling: Handling, error: str) -> bool:
        row, attempts = handling.row, handling.attempts + 1
        work = partial(self._updates.park, row, attempts, error)
        if await self._again.until_done(work):
            about = _about(handling, attempts)
            self._bus.publish(facts.UpdateParked(**about, error=error))
        else:
            self._tell_end(handling, attempts, is_done=False)
        return True

    async def _complete(self, handling: Handling, bot: Bot, response: Any) -> bool:
        """Say that it is done, and keep what the handler has returned; both or none."""
        attempts = handling.attempts + 1
        if isinstance(response, TelegramMethod) and await self._keep(bot, response):
            self._tell_end(handling, attempts)
            return True
        is_done = await self._again.until_done(partial(self._updates.done, handling.row, attempts))
        self._tell_end(handling, attempts, is_done=is_done)
        return True

    async def _keep(
        self, bot: Bot, response: TelegramMethod[Any], *, detached: bool = False
    ) -> bool:
        """Keep what was returned; send it at once, and return False, if it cannot be kept."""
        try:
            async with self._units(detached=detached) as uow:
                uow.send(response.as_(bot))
        except NotStorableError:
            await self._dispatcher.silent_call_request(bot, response)
            return False
        return True


def _about(handling: Handling, attempts: int) -> dict[str, Any]:
    row = handling.row
    return {"bot_id": row.bot_id, "update_id": row.update_id, "attempts": attempts}
