"""Prometheus metrics from events: counters and histograms that the event classes describe."""

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec

from lifecycle.bus import EventBus
from lifecycle.closing import Closing
from lifecycle.event import EVENT_TYPES, Event
from lifecycle.events import PluginEvent
from observability.levels import Levels, Probes
from observability.series import (
    COUNTS,
    SECONDS,
    Counter,
    Distribution,
    Family,
    Labels,
    counters,
    histograms,
    metric_name,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_log = logging.getLogger("observability.metrics")

#: Events that wait to be counted together, or for the next scrape.
_BATCH: Final = 256
#: Combinations of labels that are kept of one event class; later ones are counted as `other`.
MOST_SERIES: Final = 500

#: Names that people look for, where they are not made of topic and field.
_COUNTERS: Final = {
    "uow.retry": "db_manager_uow_retries",
    "pool.exhausted": "db_client_connection_timeouts",
    "subscriber.failed": "db_manager_subscriber_failures",
}
#: The same for histograms, with their labels; the second is OpenTelemetry's name.
_HISTOGRAMS: Final[dict[tuple[str, str], tuple[str, Labels]]] = {
    ("uow.close", "duration"): ("db_manager_uow_duration_seconds", ("plugin", "outcome")),
    ("uow.close", "waited"): ("db_client_connection_wait_time_seconds", ("outcome",)),
}
_TRANSITIONS: Final = "db_manager_transition_duration_seconds"
_ENDS_OF_HOOKS: Final = frozenset(("loaded", "started", "stopped", "unloaded", "failed"))

_Cells = tuple[Counter, tuple[tuple[str, Distribution], ...]]


class Metrics(Closing):
    """The metrics of one bus; `close`, or leaving it as a context manager, ends them.

    Made by `attach`.

    Attributes:
        registry: Where they are collected.
    """

    def __init__(self, bus: EventBus, registry: "CollectorRegistry", probes: Probes) -> None:
        self.registry = registry
        self._bus = bus
        self._levels = Levels(bus, probes)
        self._counters: dict[str, Family[Counter]] = {}
        self._histograms: dict[str, Family[Distribution]] = {}
        self._kinds: dict[type[Event], _Kind] = {}
        # Reentrant: a finalizer may publish anywhere, also while an event is counted.
        self._lock = RLock()
        #: Counted many at a time: that costs a unit less than one event by itself.
        self._waiting: deque[Event] = deque()
        self._subscriptions = [bus.subscribe("plugin.*", self._follow)]
        self._listen()
        registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return what a scrape gets; from any thread.

        Args:
            accept: The request's header: OpenMetrics for who asks for it.

        Returns:
            The text, and its content type.
        """
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 -- an extra

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator["Metric"]:
        """Yield everything as it is now; called by the registry, in the thread of the scrape."""
        self._count_waiting()
        with self._lock:  # which is not held while a probe is asked
            shown = [*counters([*self._counters.values()])]
            shown += histograms([*self._histograms.values()])
        yield from shown
        yield from self._levels.collect()

    def close(self) -> None:
        """Count no more, and leave the registry."""
        if self._subscriptions:
            for subscription in self._subscriptions:
                subscription.cancel()
            self._subscriptions.clear()
            self._count_waiting()
            self.registry.unregister(self)

    def _listen(self) -> None:
        """Subscribe to what is counted; the events of the other topics are not built for us."""
        with self._lock:
            for topic, kind in list(EVENT_TYPES.items()):
                if kind not in self._kinds:
                    self._kinds[kind] = _Kind.of(kind)
                    if _is_counted(kind):
                        self._subscriptions.append(
                            self._bus.subscribe(topic, self._record, passive=True)
                        )
            self._known = len(EVENT_TYPES)

    def _record(self, event: Event) -> None:
        if len(EVENT_TYPES) != self._known:
            self._listen()  # a module with events of its own was imported since
        self._waiting.append(event)
        if len(self._waiting) >= _BATCH:
            self._count_waiting()

    def _count_waiting(self) -> None:
        failed: list[tuple[str, Exception]] = []
        with self._lock:
            while self._waiting:
                try:
                    event = self._waiting.popleft()
                except IndexError:  # a finalizer published, and counted the last ones
                    break
                try:
                    self._count(event)
                except Exception as error:  # noqa: BLE001 -- one event is not counted; the others are
                    failed.append((event.topic, error))
        for topic, why in failed:  # without the lock: where logs go may block
            _log.error("an event %s cannot be counted", topic, exc_info=why)

    def _count(self, event: Event) -> None:
        kind = self._kinds.get(type(event))
        if kind is None:  # the event's class is not the one that is known by its topic
            kind = self._kinds[type(event)] = _Kind.of(type(event))
        key = kind.key(event)
        counter, distributions = kind.cells.get(key) or self._resolve(kind, key)
        counter.value += 1
        for field, distribution in distributions:
            distribution.add(getattr(event, field))

    def _resolve(self, kind: "_Kind", key: Any) -> _Cells:
        """Return the cells of labels that are new, and keep them for the next event."""
        values = [_text(value) for value in (key if len(kind.sources) != 1 else (key,))]
        crowded = len(kind.cells) >= MOST_SERIES
        if crowded:
            values = ["other"] * len(values)
        labels = dict(zip(kind.sources, values, strict=True), transition=kind.transition)
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
            self._levels.plugins[event.plugin] = "started" if state == "recovered" else state


def attach(
    bus: EventBus,
    *,
    registry: "CollectorRegistry | None" = None,
    probes: Probes | None = None,
) -> Metrics:
    """Count and measure the events of *bus* for Prometheus.

    Of each event class its counter `<topic>_total` with its `labels`, and a histogram for each of
    its `measures`. What is only for debugging and has neither is not counted.

    Args:
        bus: The bus.
        registry: Where the metrics are collected; by default a registry of their own.
        probes: Levels to sample at each scrape, in the thread of the scrape: `app.probes`.

    Returns:
        The metrics, to be closed.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ImportError(
            "metrics need prometheus-client: install db-manager[metrics]", name=error.name
        ) from error
    if registry is None:
        registry = CollectorRegistry()
    return Metrics(bus, registry, {} if probes is None else probes)


class _Kind(NamedTuple):
    """How the events of one class are counted and measured."""

    #: Returns what tells the labels of an event: one value, or a tuple of them.
    key: Callable[[Any], Any]
    sources: Labels
    transition: str
    counter: Family[Counter]
    histograms: tuple[tuple[str, Family[Distribution]], ...]
    cells: dict[Any, _Cells]

    @classmethod
    def of(cls, kind: type[Event]) -> Self:
        subject, _, happened = kind.topic.rpartition(".")
        transition = happened if subject == "plugin" and happened in _ENDS_OF_HOOKS else ""
        is_unit = kind.topic == "uow.close"
        # The plugin whose work it was, where people want to see it.
        sources = (*kind.labels, "plugin") if is_unit else kind.labels
        paths = (*kind.labels, "correlation.plugin") if is_unit else kind.labels
        base = metric_name(kind.topic)
        about = (inspect.getdoc(kind) or kind.topic).partition("\n")[0]
        found = []
        for field in msgspec.structs.fields(kind):
            if field.name not in kind.measures:
                continue
            seconds = field.type is float
            usual = f"{base}_{field.name}{'_seconds' if seconds else ''}", kind.labels
            name, labels = _HISTOGRAMS.get((kind.topic, field.name), usual)
            if transition and field.name == "duration":
                name, labels = _TRANSITIONS, ("plugin", "transition")
            make = partial(Distribution, SECONDS if seconds else COUNTS)
            family = Family(name, f"Field {field.name} of the event {kind.topic}.", labels, make)
            found.append((field.name, family))
        return cls(
            key=attrgetter(*paths) if paths else _no_labels,
            sources=sources,
            transition=transition,
            counter=Family(_COUNTERS.get(kind.topic, base), about, kind.labels, Counter),
            histograms=tuple(found),
            cells={},
        )


def _no_labels(_: Event) -> tuple[()]:
    return ()


def _is_counted(kind: type[Event]) -> bool:
    """False for the steps of a unit: its end tells all of them, and they are many."""
    return kind.level != "debug" or bool(kind.labels or kind.measures)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
