"""Joins an application and a dispatcher, and says whose handlers are whose."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiogram import Dispatcher, Router

from lifecycle.application import Application
from lifecycle.bot.traffic import Traffic, find_traffic
from lifecycle.correlation import current_correlation
from lifecycle.errors import LifecycleError


def attach(app: Application, dispatcher: Dispatcher) -> None:
    """Let *dispatcher* and *app* live and die together.

    The service `aiogram:dispatcher` is provided at once. When the dispatcher starts up (polling or
    webhook), the application starts before the dispatcher's own startup hooks; one that fails
    stops it again. When the dispatcher shuts down, the updates in flight are waited for, every
    shutdown hook of every router is called, whatever the others did, and the application is
    stopped and unloaded last. The hooks share the drain time with the updates.

    With `dispatcher.start_polling` instead of `run_polling`, call `await app.load()` before it:
    aiogram asks Telegram only for the updates that have handlers by then.

    With `setup_application` of aiogram's webhooks, call that before `register` of the request
    handler: the latter's shutdown closes the session of the bot.

    Args:
        app: The application.
        dispatcher: The dispatcher; a second call with the same pair does nothing.

    Raises:
        LifecycleError: One of them is attached to another one.
    """
    attached(app, dispatcher)


def attached(app: Application, dispatcher: Dispatcher) -> Traffic:
    """Return the traffic of *dispatcher*; attach it to *app* when it is not.

    Raises:
        LifecycleError: One of them is attached to another one.
    """
    traffic = find_traffic(dispatcher)
    if traffic is None:
        app.services.provide("aiogram:dispatcher", dispatcher)
        traffic = Traffic(app, dispatcher)
        traffic.install()
    elif traffic.app is not app:
        raise LifecycleError("this dispatcher is attached to another application; make a new one")
    return traffic


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
