"""The event bus beside blinker, pyee, psygnal, aiosignal and a plain loop."""

import timeit
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Final

import aiosignal
import blinker
import psygnal
import pyee
import pyee.asyncio

from benchmarks.calls import Call, medians, take_turns
from benchmarks.report import Plot, Scale, Section, Table
from benchmarks.rounds import Case, interleave, median
from lifecycle.bus import Channel, EventBus
from lifecycle.event import Event
from lifecycle.journal import UnknownEvent

NAME = "bus"

SUBSCRIBERS: Final = (0, 1, 5, 20)
TOPICS: Final = (10, 100, 1_000, 10_000)
WILDCARDS: Final = (0, 100)
RIVALS: Final = ("blinker", "pyee", "psygnal")
LOOP, PASSIVE, OURS, BY_TOPIC, BUILT = (
    "plain loop",
    "ours, passive handlers",
    "ours",
    "ours, `bus.publish`",
    "ours, event built and published",
)

#: Events published before the functions get their turn.
BURST: Final = 100
AT_ONCE: Final = f"ours, {BURST} events at once"

AsyncHandler = Callable[[Event], Awaitable[None]]


class Made(Event):
    """What is published."""

    topic: ClassVar[str] = "bench.made"

    number: int
    name: str


class _Psygnal:
    made = psygnal.Signal(object)


def _handlers(count: int) -> list[Callable[..., None]]:
    """Return *count* different handlers that do nothing."""

    def make() -> Callable[..., None]:
        def handle(_: object, event: object = None) -> None:
            """Do nothing; blinker gives the event by name."""

        return handle

    return [make() for _ in range(count)]


def _async_handlers(count: int) -> list[AsyncHandler]:
    def make() -> AsyncHandler:
        async def handle(_: Event) -> None:
            """Do nothing."""

        return handle

    return [make() for _ in range(count)]


def _channel(handlers: list[Callable[..., None]], *, passive: bool) -> tuple[EventBus, Channel]:
    bus = EventBus()
    for handler in handlers:
        bus.subscribe("bench.*", handler, passive=passive)
    return bus, bus.channel(Made)


def _publishing(count: int) -> dict[str, Call]:
    """Return the ways to bring an event to *count* plain functions."""
    handlers = _handlers(count)
    names: dict[str, Any] = {"event": Made(number=1, name="x"), "Made": Made}
    bus, channel = _channel(handlers, passive=False)
    _, passive = _channel(handlers, passive=True)
    signal, emitter, emits = blinker.Signal(), pyee.EventEmitter(), _Psygnal()
    for handler in handlers:
        signal.connect(handler)
        emitter.on("made", handler)
        emits.made.connect(handler, check_nargs=False)

    def loop(event: Event) -> None:
        for handler in handlers:
            handler(event)

    built = "if channel.handlers: channel.publish(Made(number=1, name='x'))"
    return {
        LOOP: Call("loop(event)", {**names, "loop": loop}),
        PASSIVE: Call("channel.publish(event)", {**names, "channel": passive}),
        OURS: Call("channel.publish(event)", {**names, "channel": channel}),
        BY_TOPIC: Call("bus.publish(event)", {**names, "bus": bus}),
        BUILT: Call(built, {**names, "channel": channel}),
        "blinker": Call("signal.send(None, event=event)", {**names, "signal": signal}),
        "pyee": Call("emitter.emit('made', event)", {**names, "emitter": emitter}),
        "psygnal": Call("emits.made.emit(event)", {**names, "emits": emits}),
    }


def _plain(rounds: int) -> tuple[Table, Plot, dict[str, float]]:
    columns = {n: medians(take_turns(_publishing(n), rounds)) for n in SUBSCRIBERS}
    names = list(columns[0])
    table = Table(
        "One event to n plain functions, nanoseconds",
        ("", *(f"{n} subscribers" for n in SUBSCRIBERS)),
        [(name, *(columns[n][name] for n in SUBSCRIBERS)) for name in names],
        "Ours keeps track of causes (no handler is called for what its own work causes, also in "
        "the tasks it starts): that is one `ContextVar.set` for each handler, and the difference "
        "to `passive` handlers, which say that they cause nothing. The others keep track of "
        "nothing. The event exists already, but in the row that says so; there an `if` asks "
        "before whether anybody listens.",
    )
    plot = Plot(
        "bus-subscribers",
        "One event to n plain functions",
        "subscribers",
        "nanoseconds",
        {name: [(n, columns[n][name]) for n in SUBSCRIBERS] for name in names},
    )

    def rivals(ours: str) -> float:
        return max(columns[n][ours] / min(columns[n][each] for each in RIVALS) for n in SUBSCRIBERS)

    facts = {
        "bus.nobody": columns[0][BUILT],
        "bus.one": columns[1][BUILT] / 1000,
        "bus.rivals": rivals(OURS),
        "bus.rivals passive": rivals(PASSIVE),
    }
    return table, plot, facts


def _emitting(handlers: list[AsyncHandler]) -> dict[str, Callable[[Event], Awaitable[object]]]:
    """Return how others bring an event to async functions."""
    emitter, signal = pyee.asyncio.AsyncIOEventEmitter(), blinker.Signal()
    sends: aiosignal.Signal[Event] = aiosignal.Signal(None)

    def blinks(handler: AsyncHandler) -> Callable[..., Awaitable[None]]:
        async def receive(_: object, event: Event) -> None:
            await handler(event)

        return receive

    for handler in handlers:
        emitter.on("made", handler)
        sends.append(handler)
        signal.connect(blinks(handler), weak=False)
    sends.freeze()

    async def emitted(event: Event) -> None:
        emitter.emit("made", event)
        await emitter.wait_for_complete()

    async def blinked(event: Event) -> None:
        await signal.send_async(None, event=event)

    return {"aiosignal": sends.send, "pyee": emitted, "blinker": blinked}


async def _awaiting(count: int, scale: Scale) -> dict[str, float]:
    """Return microseconds until *count* async functions have had an event."""
    handlers = _async_handlers(count)
    event = Made(number=1, name="x")
    bus = EventBus()
    for handler in handlers:
        bus.subscribe("bench.*", handler)
    channel = bus.channel(Made)

    async def loop(event: Event) -> None:
        for handler in handlers:
            await handler(event)

    async def ours(event: Event) -> None:
        channel.publish(event)
        await bus.drain()

    async def burst(event: Event) -> None:
        for _ in range(BURST):
            channel.publish(event)
        await bus.drain()

    ways = {LOOP: loop, OURS: ours, AT_ONCE: burst, **_emitting(handlers)}
    cases: dict[str, Case] = {name: partial(way, event) for name, way in ways.items()}
    samples = await interleave(cases, rounds=scale.rounds, units=scale.units, tasks=1)
    found = {name: median(values, "wall") for name, values in samples.items()}
    found[AT_ONCE] /= BURST
    return found


async def _async(scale: Scale) -> Table:
    columns = {n: await _awaiting(n, scale) for n in SUBSCRIBERS}
    return Table(
        "One event to n `async def` functions, until all have returned, microseconds",
        ("", *(f"{n} subscribers" for n in SUBSCRIBERS)),
        [(name, *(columns[n][name] for n in SUBSCRIBERS)) for name in columns[0]],
        "Ours and pyee run the functions in tasks of their own, so that a slow one delays nobody; "
        "aiosignal, blinker and the loop make the publisher wait for one after the other.",
    )


def _topics(scale: Scale) -> tuple[Table, Plot]:
    """Return what many topics cost, each with a subscriber of its own."""
    rows: list[tuple[int | float, ...]] = []
    series: dict[str, list[tuple[float, float]]] = {}
    for wildcards in WILDCARDS:
        for topics in TOPICS[: -1 if scale.quick else None]:
            bus = EventBus()
            for i in range(wildcards):
                bus.subscribe(f"other{i}.*", print)
            (handler,) = _handlers(1)
            events = [UnknownEvent(topic=f"bench.topic{i}", fields={}) for i in range(topics)]
            setting = {"bus": bus, "events": events, "handler": handler}
            steps = {
                "subscribe": "for e in events: bus.subscribe(e.topic, handler)",
                "first": "for e in events: bus.publish(e)",
            }
            once = {
                name: _once(statement, setting) / topics * 1e6 for name, statement in steps.items()
            }
            publish = Call("for e in events: bus.publish(e)", setting)
            again = medians(take_turns({"": publish}, scale.rounds))[""] / topics
            rows.append((topics, wildcards, once["subscribe"], once["first"], again))
            series.setdefault(f"{wildcards} wildcards", []).append((topics, again))
    table = Table(
        "Publish on many topics in turn, each with one subscriber",
        ("topics", "other wildcard patterns", "subscribe µs", "first publish µs", "publish ns"),
        rows,
        "The first publish on a topic finds out who listens; the bus remembers it.",
    )
    plot = Plot("bus-topics", "Publish on many topics in turn", "topics", "nanoseconds", series)
    return table, plot


def _once(statement: str, names: dict[str, Any]) -> float:
    return timeit.timeit(statement, globals=names, number=1)


async def measure(scale: Scale) -> Section:
    """Measure the bus.

    Args:
        scale: How much.
    """
    plain, growth, facts = _plain(scale.rounds)
    topics, many = _topics(scale)
    text = (
        "An event of two fields, with its time and correlation, to functions that do nothing. "
        "Every number is the median of interleaved rounds. A publish to which nobody listens is "
        "an `if` on a channel that the publisher holds; the event is not even built."
    )
    return Section("Event bus", text, [plain, await _async(scale), topics], [growth, many], facts)
