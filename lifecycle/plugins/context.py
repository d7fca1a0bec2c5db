"""What a plugin acquires through its context is released for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar

from lifecycle.bus import EventBus, Subscription
from lifecycle.correlation import correlate
from lifecycle.error_text import tell, textless
from lifecycle.errors import ContextClosedError, HookTimeoutError, LifecycleError
from lifecycle.event import Event
from lifecycle.events import ServiceProvided, ServiceWithdrawn
from lifecycle.plugins.recorder import Recorder
from lifecycle.plugins.services import ServiceRegistry
from lifecycle.tasks import PATIENCE, call, end, plugin_task

T = TypeVar("T")

#: A level that can be asked for at any time: a number, or several by name.
Probe = Callable[[], float | Mapping[str, float]]

# Gives one thing back; called with the seconds it may take.
_GiveBack = Callable[[float], Awaitable[Any] | None]

_log = logging.getLogger("lifecycle.plugin")


class Owner(Protocol):
    """What a context needs to know of the application and of its plugin's place in it."""

    name: str
    config: Any
    services: ServiceRegistry
    probes: dict[str, Probe]
    recorder: Recorder
    stop_deadline: float

    def degraded(self, reason: str) -> None:
        """Report that the plugin lost something it needs."""

    def recovered(self) -> None:
        """Report that the plugin has again what it needs."""


class PluginContext:
    """One scope of a plugin's life: what is taken through it is given back when it ends.

    The context of `load` is given back after `unload`, the context of `start` after `stop`; in
    reverse order, also when the hook failed half way.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._held: dict[object, _GiveBack] = {}
        self._closed = False

    @property
    def name(self) -> str:
        """Name of the plugin."""
        return self._owner.name

    @property
    def config(self) -> Any:
        """The plugin's section of the configuration: its `config_model`, or a plain dict."""
        return self._owner.config

    @property
    def stop_deadline(self) -> float:
        """Seconds that the plugin's stop may take: its own, or a share of the grace time."""
        return self._owner.stop_deadline

    @property
    def services(self) -> ServiceRegistry:
        """The services of all plugins."""
        return self._owner.services

    @property
    def bus(self) -> EventBus:
        """The bus of the application."""
        return self._owner.recorder.bus

    def provide(self, name: str, value: Any) -> None:
        """Offer *value* to other plugins as `plugin:name`, until the scope ends.

        Args:
            name: Name of the service, without the plugin's.
            value: The service.

        Raises:
            LifecycleError: The name is taken.
            ContextClosedError: The scope has ended.
        """
        self._check_open()
        service = f"{self.name}:{name}"
        services, recorder = self._owner.services, self._owner.recorder
        services.check_free(service)
        recorder.record(
            ServiceProvided(plugin=self.name, service=service),
            lambda _: services.provide(service, value),
        )

        def withdraw(_: float) -> None:
            recorder.record(
                ServiceWithdrawn(plugin=self.name, service=service),
                lambda _: services.withdraw(service),
                must=False,
            )

        self._held[object()] = withdraw

    def subscribe(self, pattern: str, handler: Callable[[Any], Any]) -> Subscription:
        """Call *handler* for every event that matches *pattern*, until the scope ends.

        The call of an async handler that runs then is waited for, within the deadline.

        Args:
            pattern: Topic; `*` is one token, `>` the rest.
            handler: Plain or async function of one event.

        Raises:
            ContextClosedError: The scope has ended.
        """
        self._check_open()
        subscription = self.bus.subscribe(pattern, handler)
        self._held[subscription] = lambda deadline: _hang_up(subscription, deadline)
        return subscription

    async def enter(self, manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]) -> T:
        """Enter a context manager, async or plain; it is left when the scope ends.

        Args:
            manager: The context manager.

        Returns:
            What entering it gave.

        Raises:
            ContextClosedError: The scope has ended; what was being entered is left again.
        """
        self._check_open()
        if not isinstance(manager, AbstractAsyncContextManager):
            value = manager.__enter__()

            def leave(_: float) -> None:
                manager.__exit__(None, None, None)

            self._held[object()] = leave
            return value
        value = await manager.__aenter__()
        if self._closed:
            # The scope ended while this was being entered: its hook had been given up.
            await manager.__aexit__(None, None, None)
            self._check_open()
        self._held[object()] = lambda deadline: call(_leave(manager), deadline)
        return value

    def spawn(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run *work* in the background until it ends or the scope does.

        When it raises, the plugin is degraded.

        Args:
            work: The coroutine.
            name: Name of the task, for people.

        Raises:
            ContextClosedError: The scope has ended; *work* is closed.
        """
        try:
            self._check_open()
        except ContextClosedError:
            work.close()
            raise
        with correlate(plugin=self.name):
            task = plugin_task(work, name)
        self._held[task] = lambda deadline: end(task, deadline)
        task.add_done_callback(self._task_ended)
        return task

    def probe(self, name: str, probe: Probe) -> None:
        """Offer a level (pool size, queue length) to whoever measures, until the scope ends.

        Args:
            name: Name of the level, unique in the application.
            probe: Returns a number, or numbers by name.

        Raises:
            LifecycleError: The name is taken.
            ContextClosedError: The scope has ended.
        """
        self._check_open()
        probes = self._owner.probes
        if name in probes:
            raise LifecycleError(f"probe {name!r} of plugin {self.name!r} is taken already")
        probes[name] = probe

        def remove(_: float) -> None:
            del probes[name]

        self._held[object()] = remove

    def publish(self, event: Event) -> None:
        """Publish *event* on the bus; events of a plugin are not journaled."""
        self.bus.publish(event)

    def degraded(self, reason: str) -> None:
        """Report that the started plugin lost something it needs.

        Args:
            reason: What it lost, in one line.

        Raises:
            ContextClosedError: The scope has ended.
        """
        self._check_open()
        self._owner.degraded(reason)

    def recovered(self) -> None:
        """Report that the plugin has again what it needs; nothing when it had not lost it.

        Raises:
            ContextClosedError: The scope has ended.
        """
        self._check_open()
        self._owner.recovered()

    async def close(self, deadline: float) -> list[BaseException]:
        """Give everything back, in reverse; each thing is tried.

        Args:
            deadline: Seconds for all of it. What hangs costs the rest of it; what comes after that
                still gets a moment.

        Returns:
            What went wrong.
        """
        self._closed = True
        loop = asyncio.get_running_loop()
        time_over = loop.time() + deadline
        errors: list[BaseException] = []
        while self._held:
            _, give_back = self._held.popitem()
            try:
                pending = give_back(max(time_over - loop.time(), PATIENCE))
                if pending is not None:
                    await pending
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- returned to the caller
                errors.append(error)
        return errors

    def _check_open(self) -> None:
        if self._closed:
            raise ContextClosedError(
                f"this context of plugin {self.name!r} is closed: what it takes could not be "
                f"given back; use the context of the hook that is running"
            )

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._held.pop(task, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error(
            "task %s of plugin %s failed", task.get_name(), self.name, exc_info=textless(error)
        )
        if not self._closed:
            self._owner.degraded(f"task {task.get_name()!r} failed: {tell(error)}")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"holds {len(self._held)}"
        return f"<PluginContext {self.name} {state}>"


async def _hang_up(subscription: Subscription, deadline: float) -> None:
    subscription.cancel()
    running = subscription.running()
    if running:
        _, hanging = await asyncio.wait(running, timeout=deadline)
        for task in hanging:
            await end(task, PATIENCE)
            raise HookTimeoutError(deadline, abandoned=False)


async def _leave(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
