"""The bridge to aiogram: who handles what, which updates are in flight, start and stop in order.

It is the one module of `lifecycle` that imports aiogram.
"""

import asyncio
import functools
import inspect
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any

from aiogram import BaseMiddleware, Bot, Dispatcher, Router
from aiogram.dispatcher.event.handler import HandlerObject
from aiogram.dispatcher.middlewares.manager import MiddlewareManager
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import TelegramMethod
from aiogram.types import TelegramObject, Update
from aiogram.types.update import UpdateTypeLookupError

from lifecycle.application import Application
from lifecycle.drain import InFlight
from lifecycle.errors import LifecycleError
from lifecycle.events import correlate, current_correlation, error_text
from lifecycle.hooks import PATIENCE

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


def attach(app: Application, dispatcher: Dispatcher) -> None:
    """Let *dispatcher* and *app* live and die together.

    The service `aiogram:dispatcher` is provided at once. When the dispatcher starts up (polling or
    webhook), the application starts before the dispatcher's own startup hooks; one that fails
    stops it again. When the dispatcher shuts down, the updates in flight are waited for, every
    shutdown hook of every router is called, whatever the others did, and the application is
    stopped and unloaded last. The hooks share the drain time with the updates.

    Who calls `dispatcher.start_polling` instead of `run_polling` calls `await app.load()` before
    it: aiogram asks Telegram only for the updates that have handlers by then.

    With `setup_application` of aiogram's webhooks, call that before `register` of the request
    handler: the latter's shutdown closes the session of the bot.

    Args:
        app: The application.
        dispatcher: The dispatcher; a second call with the same pair does nothing.

    Raises:
        LifecycleError: One of them is attached to another one.
    """
    _attach(app, dispatcher)


async def run_polling(app: Application, dispatcher: Dispatcher, bot: Bot, **options: Any) -> None:
    """Run the application and the bot until SIGTERM, SIGINT or `dispatcher.stop_polling()`.

    Plugins are loaded before aiogram resolves the update types to ask for. A signal during the
    start takes back what had started; while running it stops the polling; a second one cuts the
    drain short. The cancellation of this call means the same as a signal.

    Args:
        app: The application; its `[app] drain` is the time for updates in flight.
        dispatcher: The dispatcher; attached when it is not.
        bot: The bot, provided as `aiogram:bot`; its session is closed at the end.
        **options: For `dispatcher.start_polling`, as `allowed_updates`. With
            `handle_as_tasks=False` aiogram cancels the update in flight itself.

    Raises:
        PluginFailedError: A plugin did not start.
        ExceptionGroup: Plugins or shutdown hooks did not end well.
    """
    polling = _Polling(_attach(app, dispatcher), bot, options)
    task = asyncio.create_task(polling.run(), name="run_polling")
    cancelled: asyncio.CancelledError | None = None
    with _signals(lambda: polling.stop(task)):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
                polling.stop(task)
    if cancelled is not None:
        raise cancelled from None if task.cancelled() else task.exception()
    if not task.cancelled():
        task.result()


@contextmanager
def include_router(dispatcher: Dispatcher, router: Router) -> Iterator[Router]:
    """Include *router* for the time of a block; its handlers belong to the plugin that does it.

    In a plugin, in `load`, so that aiogram asks Telegram for the updates it handles:
    `await context.enter(include_router(dispatcher, router))`.

    Args:
        dispatcher: Where to include it.
        router: It can be included anywhere again afterwards.

    Yields:
        The router.
    """
    traffic = _find_traffic(dispatcher)
    plugin = current_correlation().plugin
    dispatcher.include_router(router)
    if traffic is not None and plugin is not None:
        traffic.owners[router] = plugin
    try:
        yield router
    finally:
        if traffic is not None:
            traffic.owners.pop(router, None)
        dispatcher.sub_routers.remove(router)
        router._parent_router = None  # noqa: SLF001 -- aiogram has no public way to detach a router


class _Phase(Enum):
    """Where the dispatcher is in its life."""

    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()


class _Traffic(BaseMiddleware):
    """The updates of one dispatcher: outermost middleware, and what happens around its life."""

    def __init__(self, app: Application, dispatcher: Dispatcher) -> None:
        self.app = app
        self.dispatcher = dispatcher
        self.phase = _Phase.STARTING
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

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        """Count the update and correlate everything that it causes, error handlers included."""
        if not isinstance(event, Update):
            raise TypeError(f"expected an Update, got {type(event).__name__}")
        origin = correlate(
            update_id=event.update_id,
            update_type=_update_type(event),
            chat_type=_chat_type(event),
            handler=None,
            plugin=None,
            unit=None,
        )
        with origin, self.in_flight.work(f"update {event.update_id}") as work:
            response = await handler(event, data)
            # Whoever fed the update sends the method now, in the same task.
            work.lingers = isinstance(response, TelegramMethod)
            return response

    async def name_handler(
        self, handler: Handler, event: TelegramObject, data: dict[str, Any]
    ) -> Any:
        """Correlate what a handler does with its name and plugin."""
        called: HandlerObject = data["handler"]
        name = _name(called.callback)
        work = self.in_flight.current()
        if work is not None:
            work.handler = name
        plugin = self._owner(data.get("event_router"), called.callback)
        with correlate(handler=name, plugin=plugin):
            return await handler(event, data)

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        """Start the application, then call the startup hooks; take back when one fails."""
        self.phase = _Phase.STARTING
        self.failure = None
        try:
            self.provide(kwargs.get("bot"))
            await self.app.start()
            await self._emit_startup(*args, **kwargs)
        except BaseException as error:
            self.phase = _Phase.STOPPING
            await self.unload_after(error)
            raise
        self.phase = _Phase.RUNNING

    async def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the updates in flight, call every shutdown hook, unload the application."""
        self.phase = _Phase.STOPPING
        time_over = _now() + self.app.drain
        errors: list[Exception] = []
        try:
            await self.in_flight.drain(self.app.drain, self.app.record)
            for router in list(self.dispatcher.chain_tail):
                for hook in router.shutdown.handlers:
                    try:
                        async with asyncio.timeout_at(max(time_over, _now() + PATIENCE)):
                            await hook.call(*args, **{**kwargs, "router": router})
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
            self.in_flight.open()
            if self._provided_bot:
                self._provided_bot = False
                self.app.services.withdraw("aiogram:bot")

    async def unload_after(self, error: BaseException) -> None:
        """Unload because of *error*, which must not be hidden by what goes wrong now."""
        try:
            await self.unload()
        except ExceptionGroup as group:
            for each in group.exceptions:
                error.add_note(f"while unloading: {error_text(each)}")

    def _owner(self, router: Router | None, callback: Callable[..., Any]) -> str | None:
        """Return the plugin that included the router, else the one whose module it is."""
        for each in router.chain_head if router is not None else ():
            if each in self.owners:
                return self.owners[each]
        module: str = _unwrapped(callback).__module__
        while module:
            if module in self._modules:
                return self._modules[module]
            module = module.rpartition(".")[0]
        return None


class _Polling:
    """One run of a bot by polling."""

    def __init__(self, traffic: _Traffic, bot: Bot, options: dict[str, Any]) -> None:
        self._traffic = traffic
        self._bot = bot
        self._options = options
        self._asked = False
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Load, poll until told to stop, give everything back."""
        traffic, bot = self._traffic, self._bot
        traffic.phase = _Phase.STARTING
        # Raised inside of start_polling it would leave those who called stop_polling waiting.
        traffic.keeps_failure = True
        try:
            traffic.provide(bot)
            await traffic.app.load()
            await traffic.dispatcher.start_polling(
                bot, handle_signals=False, close_bot_session=False, **self._options
            )
        except BaseException as error:
            traffic.phase = _Phase.STOPPING
            if traffic.failure is not None:
                error.add_note(f"in shutdown: {error_text(traffic.failure)}")
            await traffic.unload_after(error)
            raise
        finally:
            traffic.keeps_failure = False
            await bot.session.close()
        if traffic.failure is not None:
            raise traffic.failure

    def stop(self, task: asyncio.Task[None]) -> None:
        """End *task*, which runs this; asked again, let the drain be over.

        Args:
            task: The task.
        """
        if self._asked:
            self._traffic.in_flight.hurry()
        elif self._traffic.phase is _Phase.STARTING:
            task.cancel()
        elif self._traffic.phase is _Phase.RUNNING:
            self._stopping = asyncio.create_task(self._traffic.dispatcher.stop_polling())
        self._asked = True


def _attach(app: Application, dispatcher: Dispatcher) -> _Traffic:
    traffic = _find_traffic(dispatcher)
    if traffic is None:
        app.services.provide("aiogram:dispatcher", dispatcher)
        traffic = _Traffic(app, dispatcher)
        traffic.install()
    elif traffic.app is not app:
        raise LifecycleError("this dispatcher is attached to another application; make a new one")
    return traffic


def _find_traffic(dispatcher: Dispatcher) -> _Traffic | None:
    for middleware in dispatcher.update.outer_middleware:
        if isinstance(middleware, _Traffic):
            return middleware
    return None


def _put_first(manager: MiddlewareManager, middleware: Any) -> None:
    others = list(manager)
    for each in others:
        manager.unregister(each)
    for each in (middleware, *others):
        manager.register(each)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call *stop* for SIGTERM and SIGINT during the block."""
    loop = asyncio.get_running_loop()
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        # Windows has no such handlers; another thread than the main one may not set them.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            before[number] = previous
    try:
        yield
    finally:
        for number, previous in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, previous)


def _unwrapped(callback: Callable[..., Any]) -> Any:
    while isinstance(callback, functools.partial):
        callback = callback.func
    callback = inspect.unwrap(callback)
    return callback if hasattr(callback, "__qualname__") else type(callback)


def _name(callback: Callable[..., Any]) -> str:
    named = _unwrapped(callback)
    return f"{named.__module__}.{named.__qualname__}"


def _update_type(update: Update) -> str | None:
    try:
        return update.event_type
    except UpdateTypeLookupError:
        return None  # newer than this aiogram


def _chat_type(update: Update) -> str | None:
    chat = UserContextMiddleware.resolve_event_context(update).chat
    return None if chat is None else str(chat.type)


def _now() -> float:
    return asyncio.get_running_loop().time()
