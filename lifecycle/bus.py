"""The event bus: who listens to which topic, and how an event reaches them."""

import asyncio
import inspect
import logging
from asyncio import AbstractEventLoop, CancelledError, Task
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Self

from lifecycle.events import Event, SubscriberFailed, SubscriberOverflowed, error_text

_log = logging.getLogger("lifecycle.bus")

Handler = Callable[[Any], Any]

#: Events that wait for one `async def` subscriber, unless `subscribe` says otherwise.
QUEUE_SIZE: Final = 1000

#: Seconds that a cancelled handler is given by `EventBus.close`.
_CANCEL_LIMIT: Final = 0.25

_NOBODY: Final[frozenset["Subscription"]] = frozenset()

# The subscriptions whose work is running here: the causes of what is published here. Tasks inherit
# it with their context, so a handler is recognised in the tasks it started, too.
_causes: ContextVar[frozenset["Subscription"]] = ContextVar("lifecycle_causes", default=_NOBODY)


def matches(pattern: str, topic: str) -> bool:
    """Return whether *topic* is one of those that *pattern* means.

    Args:
        pattern: Tokens between dots; `*` is any one token, a last `>` is one or more.
        topic: A topic, without wildcards.
    """
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        del tokens[len(wanted) :]
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


def _check_pattern(pattern: str) -> None:
    words = pattern.split(".")
    for position, word in enumerate(words, 1):
        if not word or word != "".join(word.split()):
            fault = f"token {position} is empty or has a space in it"
        elif "*" in word and word != "*":
            fault = f"'*' stands for a whole token; {word!r} can never match"
        elif ">" in word and (word != ">" or position < len(words)):
            fault = "'>' stands for the rest of a topic: only as the last token"
        else:
            continue
        raise ValueError(f"pattern {pattern!r}: {fault}")


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
        "pattern",
    )

    def __init__(self, bus: "EventBus", pattern: str, handler: Handler, queue_size: int) -> None:
        self.pattern = pattern
        self.name = _name_of(handler)
        #: Events that were dropped because the queue was full, or because the bus was closed.
        self.dropped = 0
        #: Called with each event, under the causes that the handler runs under.
        self.deliver: Handler = self._put if _is_async(handler) else handler
        #: The causes of what the handler does when nothing else caused it.
        self.itself = frozenset((self,))
        self._bus = bus
        self._handler = handler
        # Of an `async def` handler only: its work belongs to who subscribed, not to who happened
        # to publish (whose context may hold an open unit of work).
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
        self._bus._remove(self)  # noqa: SLF001 -- the two are one mechanism
        self._queue.clear()

    def running(self) -> list[Task[None]]:
        """Return the task in which the handler works now, unless its work led here."""
        workers = self._bus.workers
        return [task for task in self._bus._foreign_workers() if workers[task] is self]  # noqa: SLF001 -- as above

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

    def returned(self, event: Event, value: object) -> None:
        """Look at what a plain handler returned: a coroutine would never run."""
        if inspect.iscoroutine(value):
            value.close()
            wrong = TypeError("the handler returned a coroutine; make it `async def` itself")
            self.failed(event, wrong)

    def failed(self, event: Event, error: BaseException) -> None:
        """Report that the handler raised *error* for *event*."""
        try:
            text = error_text(error)
        except Exception:  # noqa: BLE001 -- str() of somebody's error may do anything
            text = type(error).__name__
        report = SubscriberFailed(subscriber=self.name, failed_topic=event.topic, error=text)
        self._report(report, event, error)

    def _report(self, report: Event, about: Event, error: BaseException | None = None) -> None:
        """Publish *report*, or log it when no one but its cause would get it."""
        channel = self._bus.channel(type(report))
        causes = _causes.get()
        if about.topic.startswith("subscriber.") or all(s in causes for s in channel.handlers):
            _log.error("%s: %s", report.topic, report.as_dict(), exc_info=error)
        else:
            _log.debug("%s: %s", report.topic, self.name, exc_info=error)
            channel.publish(report)

    def _put(self, event: Event) -> None:
        if len(self._queue) >= self._queue_size:
            self.dropped += 1
            if not self._overflowing:
                self._overflowing = True
                full = SubscriberOverflowed(subscriber=self.name, dropped=self.dropped)
                self._report(full, event)
            return
        self._queue.append((event, _causes.get()))
        if not self._working:
            self.wake()

    def wake(self) -> None:
        """See to it that a worker runs when something is in the queue.

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
        worker = running.create_task(
            self._work(), name=f"subscriber {self.name}", context=self._context.copy()
        )
        self._bus.workers[worker] = self
        worker.add_done_callback(self._ended)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        while self._queue:
            event, causes = self._queue.popleft()
            _causes.set(causes)
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


class Channel:
    """One topic of a bus, resolved once and kept by who publishes on it often.

    `if channel.handlers: channel.publish(Made(...))` costs next to nothing while nobody listens.
    """

    __slots__ = ("handlers", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        #: Who listens, in the order they subscribed; kept up to date by the bus.
        self.handlers: tuple[Subscription, ...] = ()

    def publish(self, event: Event) -> None:
        """Deliver *event*, which is of this topic; see `EventBus.publish`."""
        causes = _causes.get()
        before = None
        try:
            for subscription in self.handlers:
                itself = subscription.itself
                if causes:
                    if subscription in causes:
                        continue
                    itself |= causes
                token = _causes.set(itself)
                before = before or token  # one way back is enough
                try:
                    value = subscription.deliver(event)
                    if value is not None:
                        subscription.returned(event, value)
                except (Exception, CancelledError) as error:  # noqa: BLE001 -- EventBus.publish
                    subscription.failed(event, error)
        finally:
            if before is not None:
                _causes.reset(before)

    def __repr__(self) -> str:
        return f"<Channel {self.topic!r} handlers={len(self.handlers)}>"


class EventBus:
    """Brings events to the handlers that listen to their topic.

    A plain function is called at once. An `async def` handler has a queue of its own and gets one
    event at a time, in order, in a task that lives only while there is something in the queue. A
    handler is never called for an event that its own work caused, however indirectly.
    """

    def __init__(self) -> None:
        #: Number of the journal's run; set by the application, for observers.
        self.run = 0
        #: The tasks in which `async def` handlers run, and whose they are.
        self.workers: dict[Task[None], Subscription] = {}
        self._channels: dict[str, Channel] = {}
        self._subscriptions: dict[Subscription, None] = {}

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The live subscriptions, in the order they were made."""
        return tuple(self._subscriptions)

    def subscribe(
        self, pattern: str, handler: Handler, *, queue_size: int = QUEUE_SIZE
    ) -> Subscription:
        """Call *handler* for every event whose topic matches *pattern*.

        Args:
            pattern: Topic; `*` is one token, a last `>` one or more.
            handler: Plain function (called at once, in the publisher's thread; it must not block)
                or `async def` function of one event.
            queue_size: Events that may wait for an `async def` handler; more are dropped.

        Returns:
            The subscription; cancel it, or use it as a context manager.

        Raises:
            TypeError: *handler* cannot be called.
            ValueError: *pattern* can never match, or *queue_size* is below 1.
        """
        _check_pattern(pattern)
        if not callable(handler):
            raise TypeError(f"handler of {pattern!r} cannot be called: {type(handler).__name__}")
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}; it must be 1 or more")
        subscription = Subscription(self, pattern, handler, queue_size)
        self._subscriptions[subscription] = None
        for channel in self._channels.values():
            if matches(pattern, channel.topic):
                channel.handlers = (*channel.handlers, subscription)
        return subscription

    def channel(self, topic: str | type[Event]) -> Channel:
        """Return the channel of a topic: the same one at every call.

        Args:
            topic: The topic, or the event class that has it.
        """
        name = topic if isinstance(topic, str) else topic.topic
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name)
            channel.handlers = tuple(s for s in self._subscriptions if matches(s.pattern, name))
        return channel

    def publish(self, event: Event) -> None:
        """Deliver *event* to who listens; never blocks, never raises.

        A handler that raises is reported as `subscriber.failed`, a full queue as
        `subscriber.overflowed`; when nobody else listens to these, they are logged.
        """
        channel = self._channels.get(event.topic)
        if channel is None:
            channel = self.channel(event.topic)
        channel.publish(event)

    async def drain(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 -- an answer, not an error, when time is over
        """Wait until every queue is empty and no `async def` handler runs.

        Called by a handler, it does not wait for that handler.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            False when time was over before.
        """
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            for subscription in self._subscriptions:
                subscription.wake()
            workers = self._foreign_workers()
            if not workers:
                return True
            left = None if end is None else max(0.0, end - loop.time())
            done, _ = await asyncio.wait(workers, timeout=left)
            if not done:
                return False

    async def close(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 -- as in drain
        """Drain, then cancel the handlers that still run and forget what waits for them.

        Args:
            timeout: Seconds to drain at most; None waits as long as it takes.

        Returns:
            True when nothing had to be cancelled.
        """
        if await self.drain(timeout):
            return True
        workers = self._foreign_workers()
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_CANCEL_LIMIT)
        return False

    def _foreign_workers(self) -> list[Task[None]]:
        """Return the workers of this loop that are not what called us."""
        loop = asyncio.get_running_loop()
        causes = _causes.get()
        return [
            worker
            for worker, subscription in self.workers.items()
            if subscription not in causes and worker.get_loop() is loop
        ]

    def _remove(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
        for channel in self._channels.values():
            if subscription in channel.handlers:
                channel.handlers = tuple(s for s in channel.handlers if s is not subscription)

    def __repr__(self) -> str:
        return f"<EventBus subscriptions={len(self._subscriptions)} running={len(self.workers)}>"
