"""One subscriber of the bus: its handler, its queue, and what happens when it fails."""

import asyncio
import inspect
import logging
from asyncio import AbstractEventLoop, CancelledError, Task
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Protocol, Self

from lifecycle.error_text import tell, textless
from lifecycle.event import Event
from lifecycle.events import SubscriberFailed, SubscriberOverflowed

_log = logging.getLogger("lifecycle.bus")

Handler = Callable[[Any], Any]


_NOBODY: Final[frozenset["Subscription"]] = frozenset()

# The subscriptions whose work is running here: the causes of what is published here. Tasks inherit
# it with their context, so a handler is recognised in the tasks it started, too.
causes_of_this: ContextVar[frozenset["Subscription"]] = ContextVar(
    "lifecycle_causes", default=_NOBODY
)


def _ignore(_event: Event) -> None:
    """Stand in for a handler whose subscription was cancelled while an event was delivered."""


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        type(handler).__call__
    )


def _name_of(handler: Handler) -> str:
    handler = getattr(handler, "func", handler)  # functools.partial
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{named.__module__}.{named.__qualname__}"


class CoroutineReturnedError(TypeError):
    """A plain subscriber returned a coroutine, which would never run."""

    def __str__(self) -> str:
        return "the handler returned a coroutine; make it `async def` itself"


def refuse_coroutine(value: object) -> None:
    """Look at what a plain handler returned.

    Raises:
        CoroutineReturnedError: It is one, and would never run.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise CoroutineReturnedError


class Channel(Protocol):
    """What a subscription needs of a topic: whoever listens to it, and a way to reach them."""

    @property
    def handlers(self) -> tuple["Subscription", ...]:
        """Whoever listens."""

    def publish(self, event: Event) -> None:
        """Deliver *event* to them."""


class Bus(Protocol):
    """What a subscription needs of the bus that made it."""

    @property
    def workers(self) -> dict[Task[None], "Subscription"]:
        """The tasks in which `async def` handlers run, and whose they are."""

    def channel(self, topic: type[Event]) -> Channel:
        """Return the channel of the event's topic."""

    def foreign_workers(self) -> list[Task[None]]:
        """Return the workers of this loop that are not what called us."""

    def remove(self, subscription: "Subscription") -> None:
        """Forget a subscription, which cancels itself."""


class Subscription:
    """A handler that listens to a pattern; leaving it as a context manager cancels it.

    Made by `EventBus.subscribe`.
    """

    __slots__ = (
        "_bus",
        "_context",
        "_handler",
        "_loop",
        "_overflowing",
        "_queue",
        "_queue_size",
        "_working",
        "deliver",
        "dropped",
        "itself",
        "name",
        "passive",
        "pattern",
    )

    def __init__(
        self, bus: Bus, pattern: str, handler: Handler, queue_size: int, *, passive: bool
    ) -> None:
        is_async = _is_async(handler)
        if is_async and passive:
            raise ValueError(f"handler of {pattern!r} is async: only a plain one can be passive")
        self.pattern = pattern
        #: It causes nothing, so its causes are not set while it runs.
        self.passive = passive
        self.name = _name_of(handler)
        #: Events that were dropped because the queue was full, or because the bus was closed.
        self.dropped = 0
        #: Called with each event, under the causes that the handler runs under.
        self.deliver: Handler = self._put if is_async else handler
        #: The causes of what the handler does when nothing else caused it.
        self.itself = frozenset((self,))
        self._bus = bus
        self._handler = handler
        # Of an `async def` handler only: its work belongs to the subscriber, not to whoever
        # happened to publish (whose context may hold an open unit of work).
        self._context = copy_context()
        self._queue: deque[tuple[Event, frozenset[Subscription]]] = deque()
        self._queue_size = queue_size
        self._loop: AbstractEventLoop | None = None
        self._working = False
        self._overflowing = False

    @property
    def pending(self) -> int:
        """Number of events in the queue."""
        return len(self._queue)

    def cancel(self) -> None:
        """Stop listening: what waits in the queue is forgotten, a running call goes on."""
        self.deliver = _ignore
        self._bus.remove(self)
        self._queue.clear()

    def running(self) -> list[Task[None]]:
        """Return the handler's running task, unless the caller is part of its work."""
        workers = self._bus.workers
        return [task for task in self._bus.foreign_workers() if workers[task] is self]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        counts = f"pending={self.pending}, dropped={self.dropped}"
        return f"<Subscription {self.pattern!r} {self.name} {counts}>"

    def failed(self, event: Event, error: BaseException) -> None:
        """Report that the handler raised *error* for *event*."""
        report = SubscriberFailed(subscriber=self.name, failed_topic=event.topic, error=tell(error))
        self._report(report, event, error)

    def _report(self, report: Event, about: Event, error: BaseException | None = None) -> None:
        """Publish *report*, or log it when no one but its cause would get it."""
        channel = self._bus.channel(type(report))
        causes = causes_of_this.get()
        seen = textless(error) if error is not None else None
        if about.topic.startswith("subscriber.") or all(s in causes for s in channel.handlers):
            _log.error("%s: %s", report.topic, report.as_dict(), exc_info=seen)
        else:
            _log.debug("%s: %s", report.topic, self.name, exc_info=seen)
            channel.publish(report)

    def _put(self, event: Event) -> None:
        if len(self._queue) >= self._queue_size:
            self.dropped += 1
            if not self._overflowing:
                self._overflowing = True
                full = SubscriberOverflowed(subscriber=self.name, dropped=self.dropped)
                self._report(full, event)
            return
        self._queue.append((event, causes_of_this.get()))
        if not self._working:
            self.wake()

    def wake(self) -> None:
        """Start a worker when something is in the queue and none runs.

        The worker lives in the loop that first published or drained; elsewhere (another thread)
        this only tells that loop. Without any loop the queue waits for one.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None or self._loop.is_closed():
            self._loop, self._working = running, False
        if self._loop is None or self._working or not self._queue:
            return
        if self._loop is not running:
            with suppress(RuntimeError):  # that loop was closed just now
                self._loop.call_soon_threadsafe(self.wake)
            return
        self._working = True
        # Not by the loop's task factory: an eager one would run the handler inside of `publish`.
        worker = Task(
            self._work(),
            loop=running,
            name=f"subscriber {self.name}",
            context=self._context.copy(),
        )
        self._bus.workers[worker] = self
        worker.add_done_callback(self._ended)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        while self._queue:
            event, causes = self._queue.popleft()
            causes_of_this.set(causes)
            try:
                await self._handler(event)
            except CancelledError as error:
                if worker is None or worker.cancelling():
                    raise
                self.failed(event, error)
            except Exception as error:  # noqa: BLE001 -- a subscriber harms nobody but itself
                self.failed(event, error)

    def _ended(self, worker: Task[None]) -> None:
        self._bus.workers.pop(worker, None)
        self._working = self._overflowing = False
        if worker.cancelled():
            self.dropped += len(self._queue)
            self._queue.clear()
        self.wake()  # what came after the worker had looked for the last time
