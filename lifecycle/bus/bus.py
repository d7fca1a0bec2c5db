"""The event bus: who listens to which topic, and how an event reaches them."""

import asyncio
import itertools
from asyncio import Task
from typing import Final

from lifecycle.bus.channel import Channel
from lifecycle.bus.subscription import Handler, Subscription, causes_of_this
from lifecycle.bus.topics import check_pattern, is_topic, matches
from lifecycle.event import Event

#: Events that wait for one `async def` subscriber, unless `subscribe` says otherwise.
QUEUE_SIZE: Final = 1000

#: Seconds that a cancelled handler is given by `EventBus.close`.
_CANCEL_LIMIT: Final = 0.25


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
        # Each with its number, in the order they were made.
        self._subscriptions: dict[Subscription, int] = {}
        self._made = itertools.count()
        # The same: those of one topic by that topic, and those with wildcards.
        self._exact: dict[str, list[Subscription]] = {}
        self._wild: dict[Subscription, None] = {}

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The live subscriptions, in the order they were made."""
        return tuple(self._subscriptions)

    def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue_size: int = QUEUE_SIZE,
        passive: bool = False,
    ) -> Subscription:
        """Call *handler* for every event whose topic matches *pattern*.

        Args:
            pattern: Topic; `*` is one token, a last `>` one or more.
            handler: Plain function (called at once, in the publisher's thread; it must not block)
                or `async def` function of one event.
            queue_size: Events that may wait for an `async def` handler; more are dropped.
            passive: True for a plain function that only looks: it publishes nothing and starts no
                task, so it is called without keeping track of what it causes, which is faster.

        Returns:
            The subscription; cancel it, or use it as a context manager.

        Raises:
            TypeError: *handler* cannot be called.
            ValueError: *pattern* can never match, *queue_size* is below 1, or an `async def`
                handler is said to be passive.
        """
        check_pattern(pattern)
        if not callable(handler):
            raise TypeError(f"handler of {pattern!r} cannot be called: {type(handler).__name__}")
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}; it must be 1 or more")
        subscription = Subscription(self, pattern, handler, queue_size, passive=passive)
        self._subscriptions[subscription] = next(self._made)
        if is_topic(pattern):
            self._exact.setdefault(pattern, []).append(subscription)
        else:
            self._wild[subscription] = None
        for channel in self._channels_of(pattern):
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
            found = [s for s in tuple(self._wild) if matches(s.pattern, name)]
            found += self._exact.get(name, ())
            channel.handlers = tuple(sorted(found, key=self._subscriptions.__getitem__))
        return channel

    def publish(self, event: Event) -> None:
        """Deliver *event* to every listener; never blocks, never raises.

        A handler that raises is reported as `subscriber.failed`, a full queue as
        `subscriber.overflowed`; when nobody else listens to these, they are logged.
        """
        channel = self._channels.get(event.topic)
        if channel is None:
            channel = self.channel(event.topic)
        channel.publish(event)

    async def drain(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 -- a timeout is an answer here, not an error
        """Wait until every queue is empty and no `async def` handler runs.

        Called by a handler, it does not wait for that handler.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            False when the timeout came first.
        """
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            for subscription in self._subscriptions:
                subscription.wake()
            workers = self.foreign_workers()
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
        workers = self.foreign_workers()
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=_CANCEL_LIMIT)
        return False

    def foreign_workers(self) -> list[Task[None]]:
        """Return the workers of this loop that are not what called us."""
        loop = asyncio.get_running_loop()
        causes = causes_of_this.get()
        return [
            worker
            for worker, subscription in self.workers.items()
            if subscription not in causes and worker.get_loop() is loop
        ]

    def remove(self, subscription: Subscription) -> None:
        """Forget *subscription*, which cancels itself."""
        if self._subscriptions.pop(subscription, None) is None:
            return
        pattern = subscription.pattern
        if is_topic(pattern):
            self._exact[pattern].remove(subscription)
            if not self._exact[pattern]:
                del self._exact[pattern]
        else:
            del self._wild[subscription]
        for channel in self._channels_of(pattern):
            channel.handlers = tuple(s for s in channel.handlers if s is not subscription)

    def _channels_of(self, pattern: str) -> list[Channel]:
        """Return the known channels that *pattern* means."""
        if is_topic(pattern):
            return [self._channels[pattern]] if pattern in self._channels else []
        return [each for each in list(self._channels.values()) if matches(pattern, each.topic)]

    def __repr__(self) -> str:
        return f"<EventBus subscriptions={len(self._subscriptions)} running={len(self.workers)}>"
