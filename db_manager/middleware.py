"""Puts `uow_factory` into the data of every handler, filter and error handler of an update."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypedDict

from aiogram import BaseMiddleware, Dispatcher
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.types import TelegramObject

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import include_data

#: Exceptions with which aiogram ends a handler without an error; a unit rolls back on them.
CONTROL_FLOW: Final = (SkipHandler, CancelHandler)


class DatabaseData(TypedDict):
    """The key that db_manager adds to a handler's data; extend it with your own keys."""

    uow_factory: UnitOfWorkFactory
    """Makes units of work: `async with uow_factory() as uow`."""


class DatabaseMiddleware(BaseMiddleware):
    """Passes the factory to handlers, not an open unit: the handler decides where a unit ends.

    Args:
        factory: The factory.
        key: Its name in the data.
    """

    def __init__(self, factory: UnitOfWorkFactory, key: str = "uow_factory") -> None:
        self.factory = factory
        self.key = key

    def __call__(  # type: ignore[override]  # returns the handler's awaitable instead of awaiting it
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Awaitable[Any]:
        """Add the factory to *data*."""
        data[self.key] = self.factory
        return handler(event, data)


@contextmanager
def registered(
    dispatcher: Dispatcher, factory: UnitOfWorkFactory, key: str = "uow_factory"
) -> Iterator[None]:
    """Register the middleware on *dispatcher* for the duration of the block.

    Middlewares that run before it, outside of it and around error handlers have the factory from
    the dispatcher's own data.

    Args:
        dispatcher: The dispatcher.
        factory: The factory.
        key: Its name in the data.
    """
    middleware = DatabaseMiddleware(factory, key)
    with include_data(dispatcher, key, factory):
        dispatcher.update.middleware(middleware)
        try:
            yield
        finally:
            dispatcher.update.middleware.unregister(middleware)
