"""Puts `uow_factory` into the data of every handler, filter and error handler of an update."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypedDict

from aiogram import BaseMiddleware, Dispatcher
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.types import TelegramObject

from db_manager.unit.factory import UnitOfWorkFactory

#: Exceptions of aiogram that end a handler without being an error: they roll back.
CONTROL_FLOW: Final = (SkipHandler, CancelHandler)


class DatabaseData(TypedDict):
    """What a handler finds in its data; extend it with your own keys."""

    uow_factory: UnitOfWorkFactory
    """Makes units of work: `async with uow_factory() as uow`."""


class DatabaseMiddleware(BaseMiddleware):
    """Hands the factory to handlers, never an open unit: the handler says where a unit ends.

    Args:
        factory: The factory.
    """

    def __init__(self, factory: UnitOfWorkFactory) -> None:
        self.factory = factory

    def __call__(  # type: ignore[override]  # the next one's awaitable is passed on, not awaited
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Awaitable[Any]:
        """Add the factory to *data*."""
        data["uow_factory"] = self.factory
        return handler(event, data)


@contextmanager
def registered(dispatcher: Dispatcher, factory: UnitOfWorkFactory) -> Iterator[None]:
    """Register the middleware on *dispatcher* for the time of the block.

    Error handlers run outside of the update's own middlewares, so it stands before them too.

    Args:
        dispatcher: The dispatcher.
        factory: The factory.
    """
    middleware = DatabaseMiddleware(factory)
    dispatcher.update.middleware(middleware)
    dispatcher.error.outer_middleware(middleware)
    try:
        yield
    finally:
        dispatcher.update.middleware.unregister(middleware)
        dispatcher.error.outer_middleware.unregister(middleware)
