"""The event bus: patterns, order, failing and slow handlers, loops of causes, draining."""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, ClassVar

import pytest

from lifecycle.bus import EventBus, Subscription
from lifecycle.bus.topics import matches
from lifecycle.event import Event
from lifecycle.events import SubscriberFailed, SubscriberOverflowed


class Ping(Event):
    topic: ClassVar[str] = "bustest.ping"

    number: int = 0


class Pong(Event):
    topic: ClassVar[str] = "bustest.pong"

    number: int = 0


@pytest.fixture
def bus() -> EventBus:
    """Return a new bus."""
    return EventBus()


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("*.>", "a", False),
    ],
)
def test_patterns_mean_what_they_mean_in_nats(pattern: str, topic: str, expected: bool) -> None:
    """`*` is one token and `>` is one or more at the end."""
    assert matches(pattern, topic) is expected


@pytest.mark.parametrize("pattern", ["", ".", "a.", ".a", "a..b", "a.>.b", "a.b*", "a b", "a.>>"])
def test_pattern_that_cannot_match_is_refused(bus: EventBus, pattern: str) -> None:
    """A pattern that no topic can match is an error that shows the pattern."""
    with pytest.raises(ValueError, match="pattern") as caught:
        bus.subscribe(pattern, print)
    assert repr(pattern) in str(caught.value)


def test_subscribe_refuses_what_cannot_work(bus: EventBus) -> None:
    """A handler must be callable, and a queue must hold something."""
    with pytest.raises(TypeError, match="cannot be called: int"):
        bus.subscribe(">", 1)  # type: ignore[arg-type] # the mistake under test
    with pytest.raises(ValueError, match="queue_size is 0"):
        bus.subscribe(">", print, queue_size=0)
    with pytest.raises(ValueError, match="handler of '>' is async"):
        bus.subscribe(">", AsyncCallable(), passive=True)
    assert bus.subscriptions == ()


def test_plain_handlers_are_called_at_once_in_order(bus: EventBus) -> None:
    """Plain functions have run when publish returns, in the order they subscribed."""
    calls: list[Any] = []
    bus.subscribe("bustest.*", lambda event: calls.append(("first", event)))
    bus.subscribe("bustest.ping", lambda event: calls.append(("second", event)))
    bus.subscribe("other.>", calls.append)
    event = Ping()
    bus.publish(event)
    assert calls == [("first", event), ("second", event)]


def test_order_of_handlers_does_not_depend_on_when_a_topic_is_known(bus: EventBus) -> None:
    """Wildcards and exact topics keep the order in which they subscribed, also after a cancel."""
    calls: list[str] = []

    def hear(name: str, pattern: str) -> Subscription:
        return bus.subscribe(pattern, lambda _: calls.append(name))

    hear("1", "bustest.*")
    second = hear("2", "bustest.ping")
    hear("3", ">")
    hear("4", "bustest.ping")
    bus.publish(Ping())
    second.cancel()
    hear("5", "bustest.ping")
    hear("6", "*.ping")
    bus.publish(Ping())
    assert calls == ["1", "2", "3", "4", "1", "3", "4", "5", "6"]


def test_channel_follows_subscribe_and_cancel(bus: EventBus) -> None:
    """A channel that is held knows at any time who listens."""
    channel = bus.channel(Ping)
    assert bus.channel("bustest.ping") is channel
    seen: list[Event] = []
    with bus.subscribe("bustest.>", seen.append) as subscription:
        assert list(channel.handlers) == list(bus.subscriptions) == [subscription]
        channel.publish(Ping())
    subscription.cancel()
    assert not channel.handlers
    assert not bus.subscriptions
    channel.publish(Ping())
    assert len(seen) == 1


def test_handler_cancelled_during_delivery_is_not_called(bus: EventBus) -> None:
    """Once a subscription is cancelled its handler gets nothing, not even the present event."""
    seen: list[Event] = []
    bus.subscribe(">", lambda _: later.cancel())
    later = bus.subscribe(">", seen.append)
    bus.publish(Ping())
    assert seen == []


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), RecursionError()])
def test_raising_handler_is_reported_and_harms_nobody(bus: EventBus, error: BaseException) -> None:
    """Whatever a handler raises, the others are called and `subscriber.failed` names it."""

    def bad(_: Event) -> None:
        raise error

    reports: list[SubscriberFailed] = []
    seen: list[Event] = []
    bus.subscribe("bustest.*", bad)
    bus.subscribe("subscriber.failed", reports.append)
    bus.subscribe("bustest.*", seen.append)
    bus.publish(Ping())
    assert len(seen) == 1
    (report,) = reports
    assert report.subscriber.endswith(".bad")
    assert report.failed_topic == "bustest.ping"
    assert report.error.startswith(type(error).__name__)


def test_keyboard_interrupt_is_not_swallowed(bus: EventBus) -> None:
    """What means the end of the program passes through publish."""

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    bus.subscribe(">", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bus.publish(Ping())


def test_error_without_text_is_reported(bus: EventBus) -> None:
    """An error whose str() raises does not break publish."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def bad(_: Event) -> None:
        raise MuteError

    reports: list[SubscriberFailed] = []
    bus.subscribe("bustest.*", bad)
    bus.subscribe("subscriber.*", reports.append)
    bus.publish(Ping())
    assert [report.error.partition(":")[0] for report in reports] == ["MuteError"]


def test_failure_that_nobody_hears_is_logged(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Without another listener, and about `subscriber.*` always, the report goes to logging."""

    def bad(_: Event) -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR, "lifecycle.bus"):
        with bus.subscribe(">", bad):
            bus.publish(Ping())
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert f"ValueError: raised in {__name__}:" in caplog.text
        caplog.clear()
        bus.subscribe("bustest.*", bad)
        bus.subscribe("subscriber.failed", bad)
        bus.publish(Ping())
        assert len(caplog.records) == 1
        assert "'failed_topic': 'subscriber.failed'" in caplog.text


def test_plain_handler_that_returns_a_coroutine_is_told_the_fix(bus: EventBus) -> None:
    """A coroutine that nobody would await is closed, and the report says what to do."""

    async def work(_: Event) -> None:
        """Do nothing."""

    def forgot(event: Event) -> Coroutine[Any, Any, None]:
        return work(event)

    reports: list[SubscriberFailed] = []
    bus.subscribe("bustest.*", forgot)
    bus.subscribe("subscriber.*", reports.append)
    bus.publish(Ping())
    assert "make it `async def`" in reports[0].error


class AsyncCallable:
    """An object that is an async handler."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def __call__(self, event: Ping) -> None:
        """Keep the event's number."""
        await asyncio.sleep(0)
        self.seen.append(event.number)


async def test_async_handlers_get_every_event_in_order(bus: EventBus) -> None:
    """Async functions, objects and partials have a queue each, and keep the order."""

    async def keep(into: list[int], event: Ping) -> None:
        await asyncio.sleep(0)
        into.append(event.number)

    kept: list[int] = []
    called = AsyncCallable()
    bus.subscribe(">", called)
    subscription = bus.subscribe(">", partial(keep, kept))
    assert subscription.name.endswith(".keep")
    for number in range(50):
        bus.publish(Ping(number=number))
    assert kept == []
    assert subscription.pending == 50
    assert await bus.drain()
    assert kept == called.seen == list(range(50))
    assert bus.workers == {}


async def test_failing_async_handler_goes_on_with_the_next_event(bus: EventBus) -> None:
    """An error or a cancellation of its own ends one call, not the worker."""

    async def bad(event: Ping) -> None:
        if event.number == 0:
            raise ValueError("no")
        if event.number == 1:
            raise asyncio.CancelledError
        seen.append(event.number)

    seen: list[int] = []
    reports: list[SubscriberFailed] = []
    bus.subscribe("bustest.*", bad)
    bus.subscribe("subscriber.*", reports.append)
    for number in range(3):
        bus.publish(Ping(number=number))
    assert await bus.drain()
    assert seen == [2]
    kinds = [report.error.partition(": raised in ")[0] for report in reports]
    assert kinds == ["ValueError", "CancelledError"]


async def test_full_queue_drops_and_says_so_once_per_episode(bus: EventBus) -> None:
    """What does not fit is counted; one report per episode, the next after it caught up."""

    async def keep(event: Ping) -> None:
        seen.append(event.number)

    seen: list[int] = []
    reports: list[SubscriberOverflowed] = []
    subscription = bus.subscribe("bustest.*", keep, queue_size=2)
    bus.subscribe("subscriber.*", reports.append)
    for episode in (0, 1):
        for number in range(5):
            bus.publish(Ping(number=10 * episode + number))
        assert await bus.drain()
    assert seen == [0, 1, 10, 11]
    assert subscription.dropped == 6
    assert [report.dropped for report in reports] == [1, 4]
    assert "dropped=6" in repr(subscription)


async def test_handler_is_not_called_for_what_its_own_work_causes(bus: EventBus) -> None:
    """A plain, an async and a task-spawning handler of everything each end after one call."""
    calls: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    def plain(_: Event) -> None:
        calls.append("plain")
        bus.publish(Ping())

    async def slow(_: Event) -> None:
        calls.append("slow")
        await asyncio.sleep(0)
        bus.publish(Ping())

    async def later() -> None:
        await asyncio.sleep(0)
        bus.publish(Ping())

    def spawning(_: Event) -> None:
        calls.append("spawning")
        tasks.append(asyncio.create_task(later()))

    for handler in (plain, slow, spawning):
        with bus.subscribe("bustest.*", handler):
            bus.publish(Ping())
            assert await bus.drain()
            await asyncio.gather(*tasks)
            assert await bus.drain()
    assert calls == ["plain", "slow", "spawning"]


def test_passive_handler_is_called_like_any_other(bus: EventBus) -> None:
    """It gets every event in its turn, and what others cause; its failure is not its own news."""
    seen: list[str] = []
    reports: list[SubscriberFailed] = []

    def answer(_: Event) -> None:
        bus.publish(Pong())

    def look(event: Event) -> None:
        seen.append(event.topic)
        raise ValueError("broken")

    bus.subscribe("bustest.*", answer)
    bus.subscribe("subscriber.*", reports.append)
    bus.subscribe(">", look, passive=True)
    bus.publish(Ping())
    assert seen == ["bustest.pong", "bustest.ping"]
    assert [report.failed_topic for report in reports] == seen


def test_failure_of_a_passive_handler_reaches_who_was_called_before_it(bus: EventBus) -> None:
    """Who listens to everything hears of it, though it was called for the same event."""
    topics: list[str] = []
    bus.subscribe(">", lambda event: topics.append(event.topic))

    def look(_: Event) -> None:
        raise ValueError("broken")

    bus.subscribe("bustest.*", look, passive=True)
    bus.publish(Ping())
    assert topics == ["bustest.ping", "subscriber.failed"]


async def test_ping_pong_ends(bus: EventBus) -> None:
    """Two handlers that answer each other stop when the chain of causes comes round."""
    calls: list[str] = []

    async def ping(_: Event) -> None:
        calls.append("ping")
        bus.publish(Pong())

    def pong(_: Event) -> None:
        calls.append("pong")
        bus.publish(Ping())

    bus.subscribe("bustest.ping", ping)
    bus.subscribe("bustest.pong", pong)
    bus.publish(Ping())
    assert await bus.drain()
    assert calls == ["ping", "pong"]
    bus.publish(Ping())
    assert await bus.drain()
    assert calls == ["ping", "pong"] * 2


async def test_drain_waits_no_longer_than_told(bus: EventBus) -> None:
    """With a handler that hangs drain says False; close cancels it and forgets the queue."""
    entered = asyncio.Event()
    ended: list[str] = []

    async def hang(_: Event) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    subscription = bus.subscribe(">", hang)
    bus.publish(Ping())
    bus.publish(Ping())
    assert not await bus.drain(timeout=0)
    await entered.wait()
    assert not await bus.close(timeout=0)
    assert ended == ["cancelled"]
    assert (bus.workers, subscription.pending, subscription.dropped) == ({}, 0, 1)
    assert await bus.close()


async def test_drain_inside_a_handler_does_not_wait_for_itself(bus: EventBus) -> None:
    """A handler may drain the bus: everybody else is waited for."""
    order: list[str] = []

    async def other(_: Event) -> None:
        await asyncio.sleep(0)
        order.append("other")

    async def draining(_: Event) -> None:
        assert await bus.drain()
        order.append("drained")

    bus.subscribe(">", draining)
    bus.subscribe(">", other)
    bus.publish(Ping())
    assert await bus.drain()
    assert order == ["other", "drained"]


async def test_cancel_forgets_the_queue_and_lets_the_running_call_end(bus: EventBus) -> None:
    """After cancel nothing new is begun, but the call that runs is not torn apart."""
    entered, free = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    async def slow(event: Ping) -> None:
        entered.set()
        await free.wait()
        seen.append(event.number)

    subscription = bus.subscribe(">", slow)
    bus.publish(Ping(number=1))
    bus.publish(Ping(number=2))
    await entered.wait()
    subscription.cancel()
    free.set()
    assert await bus.drain()
    assert seen == [1]


async def test_publish_from_a_thread_reaches_an_async_handler(bus: EventBus) -> None:
    """Another thread's event is handled in the loop that the handler lives in."""
    threads: list[int] = []

    async def keep(_: Event) -> None:
        threads.append(threading.get_ident())

    bus.subscribe(">", keep)
    bus.publish(Ping())
    assert await bus.drain()
    await asyncio.to_thread(bus.publish, Ping())
    assert await bus.drain()
    assert threads == [threading.get_ident()] * 2


def test_queue_waits_for_a_loop() -> None:
    """An event published before any loop runs is delivered by the first drain, in each loop."""
    bus = EventBus()
    seen: list[int] = []

    async def keep(event: Ping) -> None:
        seen.append(event.number)

    bus.subscribe(">", keep)
    for number in (1, 2):
        bus.publish(Ping(number=number))
        with asyncio.Runner() as runner:
            assert runner.run(bus.drain())
    assert seen == [1, 2]


async def test_bus_shows_itself(bus: EventBus) -> None:
    """Its repr counts, and shows nothing else."""
    bus.subscribe("a.*", print)
    assert repr(bus) == "<EventBus subscriptions=1 running=0>"
    assert repr(bus.channel("a.b")) == "<Channel 'a.b' handlers=1>"
