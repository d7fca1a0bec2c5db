"""The updates in flight: whose they are, how many, and waited for when the application stops."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiogram import BaseMiddleware, Router
from aiogram.dispatcher.event.handler import HandlerObject
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import TelegramMethod
from aiogram.types import TelegramObject, Update
from msgspec.structs import replace

from lifecycle.correlation import Correlation, current_correlation, pop_correlation, set_correlation
from lifecycle.errors import LifecycleError
from lifecycle.events import AppDrained
from lifecycle.tasks import PATIENCE

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


_UPDATE_TYPES: Final = frozenset(Update.model_fields) - {"update_id"}

# Size of the cache of handler names.
_HANDLERS: Final = 1024


class Work:
    """An update that a task handles.

    Args:
        update_id: Telegram's id of it.
        task: The task.

    Attributes:
        handler: Who does it, as far as known.
        lingers: It is done, but its task still sends the answer: wait for that, never cancel it.
    """

    __slots__ = ("_ended", "handler", "lingers", "task", "update_id")

    def __init__(self, update_id: int, task: asyncio.Task[Any]) -> None:
        self.update_id = update_id
        self.task = task
        self.handler = "no handler yet"
        self.lingers = False
        self._ended: asyncio.Future[None] | None = None

    def ended(self) -> asyncio.Future[None]:
        """Return a future that completes with the update; ask while it is in flight."""
        if self._ended is None:  # few are ever waited for
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def end(self) -> None:
        """Say that nothing is left."""
        if self._ended is not None:
            self._ended.set_result(None)

    def __str__(self) -> str:
        return f"update {self.update_id} ({self.handler})"


class InFlight(BaseMiddleware):
    """The outermost middleware of a dispatcher: the work in flight, at most one piece a task.

    Args:
        modules: The plugin to which each module belongs.
        installed_by: Who installs it.

    Attributes:
        owners: The plugin that included each router.
        data: What plugins have put into the data of every update.
        draining: Set from the start of the drain until work is accepted again.
    """

    def __init__(self, modules: Mapping[str, str], installed_by: object) -> None:
        self.installed_by = installed_by
        self.owners: dict[Router, str] = {}
        self.data: dict[str, Any] = {}
        self.draining = asyncio.Event()
        self._modules = modules
        self._known_origin = functools.lru_cache(maxsize=_HANDLERS)(self._origin)
        self._work: dict[asyncio.Task[Any], Work] = {}
        self._closed = False
        self._hurried = False
        self._deadline: asyncio.Timeout | None = None

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
        work = self.begin(event.update_id)
        # aiogram copies the dispatcher's data when polling begins; plugins may be reloaded later.
        data.update(self.data)
        scope = set_correlation(origin)
        lingers = False
        try:
            response = await handler(event, data)
            # Whoever fed the update sends the method now, in the same task.
            lingers = response is not None and isinstance(response, TelegramMethod)
            return response
        finally:
            pop_correlation(scope)
            if work is not None:
                self.end(work, lingers=lingers)

    async def name_handler(
        self, handler: Handler, event: TelegramObject, data: dict[str, Any]
    ) -> Any:
        """Correlate what a handler does with its name and plugin."""
        called: HandlerObject = data["handler"]
        try:
            name, plugin = self._known_origin(called.callback)
        except TypeError:  # an object that cannot be hashed
            name, plugin = self._origin(called.callback)
        work = self.current()
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

    def __len__(self) -> int:
        return len(self._work)

    def work(self) -> list[Work]:
        """Return all of it."""
        return list(self._work.values())

    def current(self) -> Work | None:
        """Return the work that the running task does."""
        task = asyncio.current_task()
        return None if task is None else self._work.get(task)

    def begin(self, update_id: int) -> Work | None:
        """Count the update that the running task handles from now on.

        Args:
            update_id: Telegram's id of it.

        Returns:
            The work; None inside of other work, which it is a part of.

        Raises:
            LifecycleError: The drain is over, and the application stops.
        """
        if self._closed:
            raise LifecycleError(f"update {update_id} is refused: the application is stopping")
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # in a task
        previous = self._work.get(task)
        if previous is not None:
            if not previous.lingers:
                return None
            task.remove_done_callback(self._task_ended)
            self._end(previous)
        work = self._work[task] = Work(update_id, task)
        return work

    def end(self, work: Work, *, lingers: bool) -> None:
        """Count it no more.

        Args:
            work: What `begin` returned.
            lingers: Its task still sends the answer: it counts until that ends.
        """
        work.lingers = lingers
        if lingers:
            work.task.add_done_callback(self._task_ended)
        else:
            self._end(work)

    def open(self) -> None:
        """Take work again."""
        self._closed = self._hurried = False
        self.draining.clear()

    def hurry(self) -> None:
        """End the drain now."""
        self._hurried = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def drain(self, deadline: float, record: Callable[[AppDrained], None]) -> None:
        """Wait for the work of the other tasks, cancel what is left, and take no more.

        Its own cancellation ends the waiting at once.

        Args:
            deadline: Seconds to wait.
            record: Called with what happened.
        """
        now = asyncio.get_running_loop().time
        begun = now()
        # A task that was made just now begins its work in this pause.
        await asyncio.sleep(0)
        waited = len(self._others())
        self.draining.set()
        try:
            async with asyncio.timeout(0 if self._hurried else deadline) as self._deadline:
                while others := self._others():
                    await asyncio.wait([work.ended() for work in others])
        except TimeoutError:
            pass
        finally:
            self._deadline = None
            self._closed = True
            left = [work for work in self._others() if not work.lingers]
            for work in left:
                work.task.cancel()
            if left:
                await asyncio.wait([work.ended() for work in left], timeout=PATIENCE)
            names = tuple(map(str, left))
            record(AppDrained(waited=waited, cancelled=names, duration=now() - begun))

    def _others(self) -> list[Work]:
        me = asyncio.current_task()
        return [work for task, work in self._work.items() if task is not me]

    def _end(self, work: Work) -> None:
        del self._work[work.task]
        work.end()

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._end(self._work[task])

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


def _unwrapped(callback: Callable[..., Any]) -> Any:
    while isinstance(callback, functools.partial):
        callback = callback.func
    callback = inspect.unwrap(callback)
    return callback if hasattr(callback, "__qualname__") else type(callback)


def name_of(callback: Callable[..., Any]) -> str:
    """Return the qualified name of *callback*, below what wraps it."""
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
