"""Counts and measures the events of a bus, and renders the result for a scrape."""

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from lifecycle.bus import EventBus
from lifecycle.error_text import textless
from lifecycle.event import EVENT_TYPES, Event
from lifecycle.events import PluginEvent
from observability.metrics.gauges import Gauges, Probes
from observability.metrics.instruments import Cells, Instruments, is_counted
from observability.metrics.series import Counter, Distribution, Family, counters, histograms
from observability.vocabulary import DATABASE

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_log = logging.getLogger("observability.metrics")

#: Events that are counted together; fewer wait for the next scrape.
_BATCH: Final = 256
#: Combinations of labels per event class; further ones are counted as `other`.
MOST_SERIES: Final = 500


class Metrics:
    """The metrics of one bus; `close`, or leaving it as a context manager, ends them.

    Made by `observability.metrics.attach`.

    Attributes:
        registry: Where they are registered.
    """

    def __init__(self, bus: EventBus, registry: "CollectorRegistry", probes: Probes) -> None:
        self.registry = registry
        self._bus = bus
        self._gauges = Gauges(bus, probes)
        self._counters: dict[str, Family[Counter]] = {}
        self._histograms: dict[str, Family[Distribution]] = {}
        self._kinds: dict[type[Event], Instruments] = {}
        # Reentrant: a finalizer may publish at any point, even while an event is counted.
        self._lock = RLock()
        #: Counted in batches, which costs a unit less than one event at a time.
        self._waiting: deque[Event] = deque()
        self._subscriptions = [bus.subscribe("plugin.*", self._follow)]
        self._listen()
        registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the response to a scrape; callable from any thread.

        Args:
            accept: The request's `Accept` header, which may ask for OpenMetrics.

        Returns:
            The text, and its content type.
        """
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 -- an extra

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator["Metric"]:
        """Yield the current values; called by the registry, in the thread of the scrape."""
        self._count_waiting()
        with self._lock:  # released before the probes are called
            shown = [*counters([*self._counters.values()])]
            shown += histograms([*self._histograms.values()])
        yield from shown
        yield from self._gauges.collect()

    def close(self) -> None:
        """Stop counting, and unregister."""
        if self._subscriptions:
            for subscription in self._subscriptions:
                subscription.cancel()
            self._subscriptions.clear()
            self._count_waiting()
            self.registry.unregister(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self) -> None:
        """Subscribe to what is counted; other events need not be made."""
        with self._lock:
            for topic, kind in list(EVENT_TYPES.items()):
                if kind not in self._kinds:
                    self._kinds[kind] = Instruments.of(kind)
                    if is_counted(kind):
                        self._subscriptions.append(
                            self._bus.subscribe(topic, self._record, passive=True)
                        )
            self._known = len(EVENT_TYPES)

    def _record(self, event: Event) -> None:
        if len(EVENT_TYPES) != self._known:
            self._listen()  # a module that defines events was imported since
        self._waiting.append(event)
        if len(self._waiting) >= _BATCH:
            self._count_waiting()

    def _count_waiting(self) -> None:
        failed: list[tuple[str, Exception]] = []
        with self._lock:
            while self._waiting:
                try:
                    event = self._waiting.popleft()
                except IndexError:  # a finalizer that published has counted the rest
                    break
                try:
                    self._count(event)
                except Exception as error:  # noqa: BLE001 -- the other events are counted
                    failed.append((event.topic, error))
        for topic, why in failed:  # without the lock: where logs go may block
            _log.error("an event %s cannot be counted", topic, exc_info=textless(why))

    def _count(self, event: Event) -> None:
        kind = self._kinds.get(type(event))
        if kind is None:  # another class than the one registered for its topic
            kind = self._kinds[type(event)] = Instruments.of(type(event))
        key = kind.key(event)
        counter, distributions = kind.cells.get(key) or self._resolve(kind, key)
        counter.value += 1
        for field, cell in distributions:  # without a call of our own: four of them for each unit
            value = getattr(event, field)
            cell.counts[bisect_left(cell.bounds, value)] += 1
            cell.sum += value

    def _resolve(self, kind: Instruments, key: Any) -> Cells:
        """Return the cells of new labels, and keep them for the next event."""
        values = [_text(value) for value in (key if len(kind.sources) != 1 else (key,))]
        crowded = len(kind.cells) >= MOST_SERIES
        if crowded:
            named = zip(kind.sources, values, strict=True)
            values = [value if source == DATABASE else "other" for source, value in named]
        labels = dict(zip(kind.sources, values, strict=True), **kind.constant)
        counter = self._counters.setdefault(kind.counter.name, kind.counter)
        distributions = []
        for field, mine in kind.histograms:
            family = self._histograms.setdefault(mine.name, mine)
            distributions.append((field, family.cell(tuple(labels[x] for x in family.labels))))
        cells = counter.cell(tuple(labels[x] for x in counter.labels)), tuple(distributions)
        if not crowded:
            kind.cells[key] = cells
        return cells

    def _follow(self, event: Event) -> None:
        if isinstance(event, PluginEvent):
            state = event.topic.rpartition(".")[2]
            self._gauges.plugins[event.plugin] = "started" if state == "recovered" else state


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
