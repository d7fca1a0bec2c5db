"""The counter and histograms of an event class, and their names."""

import inspect
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self

import msgspec

from lifecycle.event import Event
from lifecycle.events import SubscriberFailed
from observability.metrics.series import (
    COUNTS,
    SECONDS,
    Counter,
    Distribution,
    Family,
    Labels,
    metric_name,
)
from observability.vocabulary import (
    MIGRATED,
    MIGRATION_FAILED,
    POOL_EXHAUSTED,
    UNIT_CLOSE,
    UNIT_RETRY,
)

#: Names that differ from topic and field because people expect others.
_COUNTERS: Final = {
    UNIT_RETRY: "db_manager_uow_retries",
    POOL_EXHAUSTED: "db_client_connection_timeouts",
    SubscriberFailed.topic: "db_manager_subscriber_failures",
}
#: The same for histograms, with their labels; the second name is OpenTelemetry's.
_HISTOGRAMS: Final[dict[tuple[str, str], tuple[str, Labels]]] = {
    (UNIT_CLOSE, "duration"): (
        "db_manager_uow_duration_seconds",
        ("plugin", "outcome", "database"),
    ),
    (UNIT_CLOSE, "waited"): (
        "db_client_connection_wait_time_seconds",
        ("outcome", "database"),
    ),
    (MIGRATED, "duration"): ("db_manager_migration_duration_seconds", ("database", "plugin")),
}
#: The label `outcome` of the two ends of a migration, which are one counter.
_OUTCOMES: Final = {MIGRATED: "applied", MIGRATION_FAILED: "failed"}
_MIGRATIONS: Final = "db_manager_migrations"
_ABOUT_MIGRATIONS: Final = "Migrations of a plugin's tables, by how they ended."
_TRANSITIONS: Final = "db_manager_transition_duration_seconds"
_ENDS_OF_HOOKS: Final = frozenset(("loaded", "started", "stopped", "unloaded", "failed"))

#: The cells of one combination of labels: a counter, and the histogram of each field.
Cells = tuple[Counter, tuple[tuple[str, Distribution], ...]]


class Instruments(NamedTuple):
    """How the events of one class are counted and measured."""

    #: Returns the values of an event's labels: one value, or a tuple of them.
    key: Callable[[Any], Any]
    sources: Labels
    #: Labels that are no fields, and the same for every event of the class.
    constant: dict[str, str]
    counter: Family[Counter]
    histograms: tuple[tuple[str, Family[Distribution]], ...]
    cells: dict[Any, Cells]

    @classmethod
    def of(cls, kind: type[Event]) -> Self:
        """Read it from the class."""
        is_unit = kind.topic == UNIT_CLOSE
        # The plugin whose handler it was is a label of units only.
        sources = (*kind.labels, "plugin") if is_unit else kind.labels
        paths = (*kind.labels, "correlation.plugin") if is_unit else kind.labels
        base, constant = metric_name(kind.topic), _constant(kind.topic)
        found = []
        for field in msgspec.structs.fields(kind):
            if field.name not in kind.measures:
                continue
            seconds = field.type is float
            usual = f"{base}_{field.name}{'_seconds' if seconds else ''}", kind.labels
            name, labels = _HISTOGRAMS.get((kind.topic, field.name), usual)
            if "transition" in constant and field.name == "duration":
                name, labels = _TRANSITIONS, ("plugin", "transition")
            make = partial(Distribution, SECONDS if seconds else COUNTS)
            family = Family(name, f"Field {field.name} of the event {kind.topic}.", labels, make)
            found.append((field.name, family))
        return cls(
            key=attrgetter(*paths) if paths else _no_labels,
            sources=sources,
            constant=constant,
            counter=_counter(kind, base),
            histograms=tuple(found),
            cells={},
        )


def _constant(topic: str) -> dict[str, str]:
    """Return the labels that a topic itself says."""
    subject, _, happened = topic.rpartition(".")
    if subject == "plugin" and happened in _ENDS_OF_HOOKS:
        return {"transition": happened}
    return {"outcome": _OUTCOMES[topic]} if topic in _OUTCOMES else {}


def _counter(kind: type[Event], base: str) -> Family[Counter]:
    if kind.topic in _OUTCOMES:
        return Family(_MIGRATIONS, _ABOUT_MIGRATIONS, (*kind.labels, "outcome"), Counter)
    about = (inspect.getdoc(kind) or kind.topic).partition("\n")[0]
    return Family(_COUNTERS.get(kind.topic, base), about, kind.labels, Counter)


def _no_labels(_: Event) -> tuple[()]:
    return ()


def is_counted(kind: type[Event]) -> bool:
    """Return False for the steps of a unit: they are many, and its end sums them up."""
    return kind.level != "debug" or bool(kind.labels or kind.measures)
