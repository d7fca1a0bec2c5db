"""An application and its dispatcher: they start and stop together, in order."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from enum import Enum, auto
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.dispatcher.middlewares.manager import MiddlewareManager

from lifecycle.application import Application
from lifecycle.bot.in_flight import InFlight, name_of
from lifecycle.bot.signals import told_to_stop
from lifecycle.tasks import PATIENCE, call, cancellations_told


class Phase(Enum):
    """Where the dispatcher is in its life."""

    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()


class Traffic:
    """The startup and shutdown of a dispatcher, and its updates in flight."""

    def __init__(self, app: Application, dispatcher: Dispatcher) -> None:
        self.app = app
        self.dispatcher = dispatcher
        self.phase = Phase.STARTING
        self.failure: Exception | None = None
        self.keeps_failure = False
        self._provided: list[str] = []
        self._emit_startup = dispatcher.emit_startup
        self._start_polling = dispatcher.start_polling
        self._stopping: asyncio.Task[None] | None = None
        modules = Counter(type(managed.plugin).__module__ for managed in app.plugins.values())
        plugins = {
            module: name
            for name, managed in app.plugins.items()
            if modules[module := type(managed.plugin).__module__] == 1
        }
        self.in_flight = InFlight(plugins, self)

    def install(self) -> None:
        """Put everything in its place."""
        dispatcher = self.dispatcher
        for router in dispatcher.sub_routers:  # `uninstall` has set them free
            router._parent_router = dispatcher  # noqa: SLF001 -- aiogram refuses to set it again
        self.app.probes["updates_in_flight"] = lambda: len(self.in_flight)
        _put_first(dispatcher.update.outer_middleware, self.in_flight)
        for name, observer in dispatcher.observers.items():
            if name != "update":
                _put_first(observer.middleware, self.in_flight.name_handler)
        # The startup and shutdown observers cannot do it: aiogram stops at the first hook that
        # raises, and calls no shutdown hook when one of startup failed.
        dispatcher.emit_startup = self.startup  # type: ignore[method-assign]  # see above
        dispatcher.emit_shutdown = self.shutdown  # type: ignore[method-assign]  # see above
        dispatcher.start_polling = self.start_polling  # type: ignore[method-assign]  # see there

    def uninstall(self) -> None:
        """Leave the dispatcher and the application as `install` found them.

        The routers of the dispatcher can be included in another one then: a test that builds a
        dispatcher of routers of its modules would otherwise be the only one that can.
        """
        dispatcher = self.dispatcher
        for router in dispatcher.sub_routers:
            if router.parent_router is dispatcher:
                router._parent_router = None  # noqa: SLF001 -- aiogram has no public way to detach
        dispatcher.update.outer_middleware.unregister(self.in_flight)
        for name, observer in dispatcher.observers.items():
            if name != "update":
                observer.middleware.unregister(self.in_flight.name_handler)
        del dispatcher.emit_startup, dispatcher.emit_shutdown, dispatcher.start_polling
        del self.app.probes["updates_in_flight"]
        self.app.services.withdraw("aiogram:dispatcher")

    def begin(self) -> None:
        """Know nothing of an earlier run."""
        self.phase = Phase.STARTING
        self.failure = None

    async def start_polling(self, *bots: Bot, handle_signals: bool = True, **options: Any) -> None:
        """Poll as aiogram does, but hear signals beside others.

        aiogram's own handlers replace those of a dispatcher that polls already, which then never
        ends.
        """
        with told_to_stop(self.stop, lambda: None) if handle_signals else nullcontext():
            try:
                await self._start_polling(*bots, handle_signals=False, **options)
            finally:
                if self._stopping is not None:
                    self._stopping.cancel()  # a shutdown that failed leaves it waiting
                    self._stopping = None

    def stop(self) -> None:
        """Stop polling; asked a second time, cut the drain short."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self.dispatcher.stop_polling())
        else:
            self.in_flight.hurry()

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        """Start the application, then call the startup hooks; take back when one fails."""
        self.begin()
        try:
            self.provide(kwargs.get("bots"), kwargs.get("bot"))
            await self.app.start()
            with cancellations_told("a startup hook"):
                await self._emit_startup(*args, **{**kwargs, **self.in_flight.data})
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
        given = {**kwargs, **self.in_flight.data}
        try:
            await self.in_flight.drain(self.app.drain, self.app.record)
            for router in list(self.dispatcher.chain_tail):
                for hook in router.shutdown.handlers:
                    try:
                        called = hook.call(*args, **{**given, "router": router})
                        name = f"shutdown hook {name_of(hook.callback)}"
                        with cancellations_told(name):
                            await call(called, max(time_over - _now(), PATIENCE), name=name)
                    except Exception as error:  # noqa: BLE001 -- all are called, then all is raised
                        error.add_note(f"in the shutdown hook {name_of(hook.callback)} of {router}")
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

    def provide(self, bots: Sequence[Bot] | None, bot: Bot | None = None) -> None:
        """Offer the bots as services until everything is unloaded.

        Args:
            bots: All of them; None for the one.
            bot: What aiogram hands to the hooks of startup and shutdown: the last one.
        """
        bots = tuple(bots or ((bot,) if bot is not None else ()))
        if not bots:
            return
        bot = bots[-1] if bot is None else bot
        services = self.app.services
        if services.get("aiogram:bot") is not bot:
            services.provide("aiogram:bot", bot)
            self._provided.append("aiogram:bot")
        if list(map(id, services.get("aiogram:bots", ()))) != list(map(id, bots)):
            services.provide("aiogram:bots", bots)
            self._provided.append("aiogram:bots")

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
        while self._provided:
            self.app.services.withdraw(self._provided.pop())


def find_traffic(dispatcher: Dispatcher) -> Traffic | None:
    """Return what `attach` installed on *dispatcher*, or None."""
    for middleware in dispatcher.update.outer_middleware:
        if isinstance(middleware, InFlight) and isinstance(middleware.installed_by, Traffic):
            return middleware.installed_by
    return None


def _put_first(manager: MiddlewareManager, middleware: Any) -> None:
    others = list(manager)
    for each in others:
        manager.unregister(each)
    for each in (middleware, *others):
        manager.register(each)


def _now() -> float:
    return asyncio.get_running_loop().time()
