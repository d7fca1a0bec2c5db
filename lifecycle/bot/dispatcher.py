"""Joins an application and a dispatcher, and says whose handlers are whose."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiogram import Dispatcher, Router

from lifecycle.application import Application
from lifecycle.bot.traffic import Traffic, find_traffic
from lifecycle.correlation import current_correlation
from lifecycle.errors import LifecycleError
from lifecycle.plugins.machine import State

#: What aiogram itself puts into the data of every update.
_OF_AIOGRAM: Final = frozenset({"bot", "bots", "dispatcher"})


def attach(app: Application, dispatcher: Dispatcher) -> None:
    """Let *dispatcher* and *app* live and die together.

    The service `aiogram:dispatcher` is provided at once. When the dispatcher starts up (polling or
    webhook), the application starts before the dispatcher's own startup hooks; one that fails
    stops it again. When the dispatcher shuts down, the updates in flight are waited for, every
    shutdown hook of every router is called, whatever the others did, and the application is
    stopped and unloaded last. The hooks share the drain time with the updates.

    With `dispatcher.start_polling` instead of `run_polling`, call `await app.load()` before it:
    aiogram asks Telegram only for the updates that have handlers by then. A signal stops it beside
    the other bots of the process, a second one cuts its drain short.

    With `setup_application` of aiogram's webhooks, call that before `register` of the request
    handler: the latter's shutdown closes the session of the bot.

    Args:
        app: The application.
        dispatcher: The dispatcher; a second call with the same pair does nothing.

    Raises:
        LifecycleError: One of them is attached to another one, or plugins are loaded already: they
            look for the dispatcher when they load.
    """
    attached(app, dispatcher)


def attached(app: Application, dispatcher: Dispatcher) -> Traffic:
    """Return the traffic of *dispatcher*; attach it to *app* when it is not.

    Raises:
        LifecycleError: One of them is attached to another one, or plugins are loaded already.
    """
    traffic = find_traffic(dispatcher)
    if traffic is None:
        _refuse_loaded(app)
        app.services.provide("aiogram:dispatcher", dispatcher)
        traffic = Traffic(app, dispatcher)
        traffic.install()
    elif traffic.app is not app:
        raise LifecycleError("this dispatcher is attached to another application; make a new one")
    return traffic


def _refuse_loaded(app: Application) -> None:
    free = (State.UNLOADED, State.FAILED)
    if loaded := [name for name, managed in app.plugins.items() if managed.state not in free]:
        raise LifecycleError(
            f"plugins are loaded already, and found no dispatcher: {', '.join(loaded)}. Call "
            f"attach(app, dispatcher) before app.load(), app.start() or `async with app`; "
            f"run_polling attaches, loads and starts by itself"
        )


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
    traffic = find_traffic(dispatcher)
    plugin = current_correlation().plugin
    dispatcher.include_router(router)
    if traffic is not None and plugin is not None:
        traffic.in_flight.owners[router] = plugin
    try:
        yield router
    finally:
        if traffic is not None:
            traffic.in_flight.owners.pop(router, None)
        dispatcher.sub_routers.remove(router)
        router._parent_router = None  # noqa: SLF001 -- aiogram has no public way to detach a router


@contextmanager
def include_data(dispatcher: Dispatcher, key: str, value: Any) -> Iterator[None]:
    """Hand *value* to whoever handles an update, as its argument *key*, for the time of a block.

    It is in the data of every middleware, filter, handler and error handler, whatever was
    registered before or after, and among the arguments of the hooks of startup and shutdown.
    In a plugin, in `load`: `await context.enter(include_data(dispatcher, "rates", rates))`.

    Args:
        dispatcher: Whose updates.
        key: Name of the argument. During the block it is this value, even when the same name is
            given to `start_polling` or `feed_update`.
        value: The value.

    Raises:
        LifecycleError: The dispatcher has that key already.
    """
    data = dispatcher.workflow_data
    if key in data or key in _OF_AIOGRAM:
        raise LifecycleError(
            f"the dispatcher has {key!r} in its data already, and handlers can get only one: give "
            f"yours another name, where it is set as dispatcher[{key!r}] or Dispatcher({key}=...)"
        )
    traffic = find_traffic(dispatcher)
    data[key] = value
    if traffic is not None:
        traffic.in_flight.data[key] = value
    try:
        yield
    finally:
        if traffic is not None:
            traffic.in_flight.data.pop(key, None)
        if data.get(key) is value:
            del data[key]


def is_draining(dispatcher: Dispatcher) -> bool:
    """Return True from when *dispatcher* shuts down until it handles updates again.

    Whoever feeds it updates of his own begins no more of them then. Added in 0.2.

    Args:
        dispatcher: The dispatcher; one that is not attached never drains.
    """
    traffic = find_traffic(dispatcher)
    return traffic is not None and traffic.in_flight.draining.is_set()
