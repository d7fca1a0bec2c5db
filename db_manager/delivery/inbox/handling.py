"""An update that is being handled: the unit that commits says that it is done."""

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from aiogram import BaseMiddleware
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.exceptions import TelegramNetworkError, TelegramRetryAfter, TelegramServerError

from db_manager.database.open_unit import UnitState
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.inbox.updates import Stored, Updates
from db_manager.dialects import classify
from db_manager.errors import (
    CommitOutcomeUnknownError,
    DbManagerError,
    EndTimeoutError,
    PoolExhaustedError,
)
from db_manager.unit.uow import UnitOfWork

#: Errors that pass; so do those that `classify.is_retryable` knows.
_PASSING: Final = (
    CommitOutcomeUnknownError,
    EndTimeoutError,
    PoolExhaustedError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    ConnectionError,
    TimeoutError,
)


class UpdateTakenError(DbManagerError):
    """The update of a unit is done already, or handled by another process: it was rolled back.

    Args:
        update_id: Telegram's number of the update.
    """

    def __init__(self, update_id: int) -> None:
        self.update_id = update_id
        super().__init__(update_id)

    def __str__(self) -> str:
        return f"update {self.update_id} is done, or another process handles it"


class UpdateCompletedError(DbManagerError):
    """A second unit of a handler wrote something: the commit of the first one ended the update.

    Args:
        update_id: Telegram's number of the update.
    """

    def __init__(self, update_id: int) -> None:
        self.update_id = update_id
        super().__init__(update_id)

    def __str__(self) -> str:
        return (
            f"update {self.update_id} is done with the first unit that wrote something: a kill "
            f"between the two would lose this one. Write both in one unit; or open one that has "
            f"nothing to do with the update with uow_factory(detached=True)"
        )


class RetryLaterError(CancelHandler):
    """Ends an attempt that is not the last one; error handlers do not see it."""


class Handling:
    """One update while it is tried.

    Args:
        row: The update.
        updates: The table.
        config: The section [delivery].

    Attributes:
        attempts: How often it was tried before.
        is_done: A unit has committed that it is done.
        is_running: Its handler runs; tasks that it leaves behind are on their own after that.
        may_be_done: A unit has, perhaps: its outcome is unknown.
        failure: The error of the last attempt.
        wait: Seconds that Telegram wants.
    """

    def __init__(self, row: Stored, updates: Updates, config: DeliveryConfig) -> None:
        self.row = row
        self.attempts = 0
        self.is_done = self.may_be_done = False
        self.is_running = False
        self.failure: Exception | None = None
        self.wait: float | None = None
        self._updates = updates
        self._config = config
        self._begun_at = asyncio.get_running_loop().time()
        self._unit = 0

    @property
    def age(self) -> float:
        """Seconds since it was stored."""
        return self.row.age + asyncio.get_running_loop().time() - self._begun_at

    def wants(self, unit: UnitOfWork) -> bool:
        """Return True if the commit of *unit* says that the update is done."""
        return self.is_running and not (unit.read_only or unit.detached)

    async def complete_in(self, unit: UnitOfWork) -> None:
        """Say in *unit* that the update is done.

        Raises:
            UpdateCompletedError: Another unit has said so.
            UpdateTakenError: It is not this process's any more.
        """
        self.completed(
            unit, is_mine=await self._updates.done_in(unit.connection, self.completion())
        )

    def completion(self) -> Mapping[str, Any]:
        """Return what a statement needs that says that the update is done.

        Raises:
            UpdateCompletedError: Another unit has said so.
        """
        if self.is_done:
            raise UpdateCompletedError(self.row.update_id)
        return {"id": self.row.id, "me": self.row.owner, "attempts": self.attempts + 1}

    def completed(self, unit: UnitOfWork, *, is_mine: bool) -> None:
        """Be told that *unit* has said so, and whether the update was this process's.

        Raises:
            UpdateTakenError: It is not this process's any more.
        """
        if not is_mine:
            raise UpdateTakenError(self.row.update_id)
        self._unit = unit.number

    def ended(self, unit: UnitOfWork) -> None:
        """Be told that *unit* has ended."""
        if unit.number == self._unit:
            self._unit = 0
            self.is_done = unit.state is UnitState.COMMITTED
            self.may_be_done |= unit.state is UnitState.OUTCOME_UNKNOWN

    def may_retry(self, error: Exception) -> bool:
        """Return True if it is tried again after *error*."""
        if isinstance(error, TelegramRetryAfter):
            self.wait = float(error.retry_after)
        if isinstance(error, UpdateTakenError):
            return True  # then the table is looked at
        if isinstance(error, _PASSING) or classify.is_retryable(error):
            return self.age < self._config.retry_for
        return self.attempts + 1 < self._config.attempts


#: What the running task handles.
CURRENT: Final[ContextVar[Handling | None]] = ContextVar("db_manager_handling", default=None)


class Retrying(BaseMiddleware):
    """Stands inside of aiogram's error handlers, which see only the error of the last attempt."""

    async def __call__(self, handler: Any, event: Any, data: dict[str, Any]) -> Any:
        """Handle *event*, or end the attempt.

        Raises:
            CancelHandler: The handler has ended in it.
            RetryLaterError: It failed, and is tried again.
            SkipHandler: The handler has ended in it.
        """
        try:
            return await handler(event, data)
        except (SkipHandler, CancelHandler):
            raise
        except Exception as error:
            handling = CURRENT.get()
            if handling is None or handling.is_done:
                raise
            if handling.may_retry(error):
                raise RetryLaterError from error
            handling.failure = error
            raise
