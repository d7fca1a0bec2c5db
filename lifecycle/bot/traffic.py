"""The updates of one aiogram dispatcher: who handles them, how many, until when."""

import asyncio
import functools
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Final

from aiogram import BaseMiddleware, Bot, Dispatcher, Router
from aiogram.dispatcher.event.handler import HandlerObject
from aiogram.dispatcher.middlewares.manager import MiddlewareManager
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import TelegramMethod
from aiogram.types import TelegramObject, Update
from msgspec.structs import replace

from lifecycle.application import Application
from lifecycle.bot.in_flight import InFlight
from lifecycle.correlation import Correlation, current_correlation, pop_correlation, set_correlation
from lifecycle.tasks import PATIENCE, call, cancellations_told

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


_UPDATE_TYPES: Final = frozenset(Update.model_fields) - {"update_id"}

# Size of the cache of handler names.
_HANDLERS: Final = 1024


class Phase(Enum):
    """Where the dispatcher is in its life."""

    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()


class Traffic(BaseMiddleware):
    """The outermost middleware of a dispatcher, and its startup and shutdown."""

    def __init__(self, app: Application, dispatcher: Dispatcher) -> None:
        self.app = app
        self.dispatcher = dispatcher
        self.phase = Phase.STARTING
        self.owners: dict[Router, str] = {}
        self.in_flight = InFlight()
        self.failure: Exception | None = None
        self.keeps_failure = False
        self._provided_bot = False
        self._emit_startup = dispatcher.emit_startup
        modules = Counter(type(managed.plugin).__module__ for managed in app.plugins.values())
        self._modules = {
            module: name
            for name, managed in app.plugins.items()
            if modules[module := type(managed.plugin).__module__] == 1
        }
        self._known_origin = functools.lru_cache(maxsize=_HANDLERS)(self._origin)

    def install(self) -> None:
        """Put everything in its place."""
        dispatcher = self.dispatcher
        self.app.probes["updates_in_flight"] = lambda: len(self.in_flight)
        _put_first(dispatcher.update.outer_middleware, self)
        for name, observer in dispatcher.observers.items():
            if name != "update":
                _put_first(observer.middleware, self.name_handler)
        # The startup and shutdown observers cannot do it: aiogram stops at the first hook that
        # raises, and calls no shutdown hook when one of startup failed.
        dispatcher.emit_startup = self.startup  # type: ignore[method-assign]  # see above
        dispatcher.emit_shutdown = self.shutdown  # type: ignore[method-assign]  # see above

    def uninstall(self) -> None:
        """Leave the dispatcher and the application as `install` found them."""
        dispatcher = self.dispatcher
        dispatcher.update.outer_middleware.unregister(self)
        for name, observer in dispatcher.observers.items():
            if name != "update":
                observer.middleware.unregister(self.name_handler)
        del dispatcher.emit_startup, dispatcher.emit_shutdown
        del self.app.probes["updates_in_flight"]
        self.app.services.withdraw("aiogram:dispatcher")

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        """Count the update and correlate everything that it causes, error handlers included.

        Raises:
            TypeError: *event* is not an `Update`.
        """
        if not isinstance(event, Update):
            raise TypeError(f"expected an Update, got {type(event).__name__}")
        kind = _update_type(event)
        origin = Correlation(
            update_id=event.update_id, update_type=kind, chat_type=_chat_type(event, kind)
        )
        scope = set_correlation(origin)
        try:
            work = self.in_flight.begin(event.update_id)
            lingers = False
            try:
                response = await handler(event, data)
                # Whoever fed the update sends the method now, in the same task.
                lingers = response is not None and isinstance(response, TelegramMethod)
                return response
            finally:
                if work is not None:
                    self.in_flight.end(work, lingers=lingers)
        finally:
            pop_correlation(scope)

    async def name_handler(
        self, handler: Handler, event: TelegramObject, data: dict[str, Any]
    ) -> Any:
        """Correlate what a handler does with its name and plugin."""
        called: HandlerObject = data["handler"]
        try:
            name, plugin = self._known_origin(called.callback)
        except TypeError:  # an object that cannot be hashed
            name, plugin = self._origin(called.callback)
        work = self.in_flight.current()
        if work is not None:
            work.handler = name
        if self.owners:
            plugin = self._owner(data.get("event_router")) or plugin
        here = replace(current_correlation(), handler=name, plugin=plugin)
        scope = set_correlation(here)
        try:
            return await handler(event, data)
        finally:
            pop_correlation(scope)

    def begin(self) -> None:
        """Know nothing of an earlier run."""
        self.phase = Phase.STARTING
        self.failure = None

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        """Start the application, then call the startup hooks; take back when one fails."""
        self.begin()
        try:
            self.provide(kwargs.get("bot"))
            await self.app.start()
            with cancellations_told("a startup hook"):
                await self._emit_startup(*args, **kwargs)
        except BaseException as error:
            self.phase = Phase.STOPPING
            await self.unload_after(error)
            raise
        self.phase = Phase.RUNNING

    async def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the updates in flight, call every shutdown hook, unload the application."""
        self.phase = Phase.STOPPING
        time_over = _now() + self.app.drain
        errors: list[Exception] = []
        try:
            await self.in_flight.drain(self.app.drain, self.app.record)
            for router in list(self.dispatcher.chain_tail):
                for hook in router.shutdown.handlers:
                    try:
                        called = hook.call(*args, **{**kwargs, "router": router})
                        name = f"shutdown hook {_name(hook.callback)}"
                        with cancellations_told(name):
                            await call(called, max(time_over - _now(), PATIENCE), name=name)
                    except Exception as error:  # noqa: BLE001 -- all are called, then all is raised
                        error.add_note(f"in the shutdown hook {_name(hook.callback)} of {router}")
                        errors.append(error)
        finally:
            try:
                await self.unload()
            except ExceptionGroup as group:
                errors.append(group)
        if not errors:
            return
        text = "shutdown went through, but not without errors"
        self.failure = errors[0] if len(errors) == 1 else ExceptionGroup(text, errors)
        if not self.keeps_failure:
            raise self.failure

    def provide(self, bot: Bot | None) -> None:
        """Offer the bot as a service, until everything is unloaded."""
        if bot is not None and self.app.services.get("aiogram:bot") is not bot:
            self.app.services.provide("aiogram:bot", bot)
            self._provided_bot = True

    async def unload(self) -> None:
        """Unload the application; nothing happens when it is."""
        try:
            await self.app.unload()
        finally:
            self._unloaded()

    async def unload_after(self, error: BaseException) -> None:
        """Unload because of *error*, which must not be hidden by what goes wrong now."""
        try:
            await self.app.unload_after(error)
        finally:
            self._unloaded()

    def _unloaded(self) -> None:
        self.in_flight.open()
        if self._provided_bot:
            self._provided_bot = False
            self.app.services.withdraw("aiogram:bot")

    def _owner(self, router: Router | None) -> str | None:
        """Return the plugin that included the router, or one that it is in."""
        while router is not None:
            if router in self.owners:
                return self.owners[router]
            router = router.parent_router
        return None

    def _origin(self, callback: Callable[..., Any]) -> tuple[str, str | None]:
        """Return the name of a handler, and the plugin whose module it is in."""
        named = _unwrapped(callback)
        module: str = named.__module__
        while module and module not in self._modules:
            module = module.rpartition(".")[0]
        return f"{named.__module__}.{named.__qualname__}", self._modules.get(module)


def find_traffic(dispatcher: Dispatcher) -> Traffic | None:
    """Return what `attach` installed on *dispatcher*, or None."""
    for middleware in dispatcher.update.outer_middleware:
        if isinstance(middleware, Traffic):
            return middleware
    return None


def _put_first(manager: MiddlewareManager, middleware: Any) -> None:
    others = list(manager)
    for each in others:
        manager.unregister(each)
    for each in (middleware, *others):
        manager.register(each)


def _unwrapped(callback: Callable[..., Any]) -> Any:
    while isinstance(callback, functools.partial):
        callback = callback.func
    callback = inspect.unwrap(callback)
    return callback if hasattr(callback, "__qualname__") else type(callback)


def _name(callback: Callable[..., Any]) -> str:
    named = _unwrapped(callback)
    return f"{named.__module__}.{named.__qualname__}"


def _update_type(update: Update) -> str | None:
    # Telegram sends one of them. `update.event_type` compares the update with earlier ones.
    for name in update.model_fields_set:
        if name in _UPDATE_TYPES and getattr(update, name) is not None:
            return name
    return None  # newer than this aiogram


def _chat_type(update: Update, kind: str | None) -> str | None:
    content = None if kind is None else getattr(update, kind)
    chat = getattr(content, "chat", None)
    if chat is None:  # further inside, or there is none
        chat = UserContextMiddleware.resolve_event_context(update).chat
    return None if chat is None else str(chat.type)


def _now() -> float:
    return asyncio.get_running_loop().time()
