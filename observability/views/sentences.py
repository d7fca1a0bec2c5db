"""What a line of the trace says of an event, and of a record of the units."""

from collections.abc import Callable
from textwrap import shorten
from typing import Any, Final, Literal

from lifecycle.errors import counted
from lifecycle.event import Event
from lifecycle.events import (
    AppCrashed,
    AppDrained,
    AppStarted,
    AppStopped,
    PluginDegraded,
    PluginRecovered,
    ServiceProvided,
    ServiceWithdrawn,
)
from observability import vocabulary
from observability.story import unit_log
from observability.story.migrations import Migration
from observability.story.texts import duration_text
from observability.story.unit_log import UnitFact

Style = Literal["", "bold", "dim", "red", "green", "yellow"]
#: Label, details and style of a line.
Told = tuple[str, list[str], Style]
_ERROR: Final = 100  # characters of an error; the log has all of them


def fields_told(event: Event) -> tuple[str, str, Style]:
    """Describe an event that `TOLD` does not have."""
    fields = event.as_dict()
    label = str(fields.pop("topic")).replace(".", " ")
    del fields["at"]
    fields.pop("duration", None)
    return label, " ".join(f"{k}={v}" for k, v in fields.items() if v not in ("", ())), ""


def _crashed(event: AppCrashed) -> tuple[str, str, Style]:
    whose = f" of {event.last_plugin}" if event.last_plugin else ""
    last = f"last event: {event.last_topic}{whose}; see --run {event.run}"
    return f"previous run {event.run} crashed", last, "yellow"


def whose(fact: UnitFact) -> list[str]:
    """Return what went wrong in a unit, and where."""
    return [shorten(fact.error, _ERROR, placeholder=" …"), ", ".join(fact.where)]


def again(fact: UnitFact) -> list[str]:
    """Return how often a message was sent, or an update tried, if that was more than once."""
    return [f"attempt {fact.attempts}"] * (fact.attempts > 1)


def waiting(fact: UnitFact) -> str:
    """Return how much waits, and for how long the oldest has."""
    what = f"{counted(fact.messages, 'message')} and {counted(fact.updates, 'update')}"
    return f"{what} wait, the oldest for {duration_text(fact.oldest)}"


def stayed(kept: int) -> str:
    """Return what a failed migration has left in the database."""
    return f"{counted(kept, 'statement')} of it stayed" if kept else "nothing of it is kept"


def migrated(migration: Migration, said: str = "") -> tuple[str, list[str]]:
    """Return the label and the details of a migration of the tables of a plugin.

    Args:
        migration: The migration.
        said: The line above it, whose error is not told again.
    """
    label = f"migrate {migration.owner}{migration.on_database}"
    if migration.outcome == "open":
        return label, [migration.revision, "unfinished"]
    if migration.outcome == "failed":
        is_known = migration.error in said
        error = "" if is_known else shorten(migration.error, _ERROR, placeholder=" …")
        return label, [migration.revision, error, stayed(migration.kept)]
    return label, [migration.revision]


def _held(size: int) -> str:
    few = {0: "all were held", 1: "the only one was held", 2: "both were held"}
    return few.get(size, f"all {size} were held")


#: Label, detail and style of the events that have a line of their own.
TOLD: Final[dict[type[Event], Callable[[Any], tuple[str, str, Style]]]] = {
    ServiceProvided: lambda e: (f"provides {e.service}", "", "dim"),
    ServiceWithdrawn: lambda e: (f"withdraws {e.service}", "", "dim"),
    PluginDegraded: lambda e: (f"degraded {e.plugin}", e.reason, "yellow"),
    PluginRecovered: lambda e: (f"recovered {e.plugin}", "", "green"),
    AppStarted: lambda e: ("app started", ", ".join(e.plugins), "bold"),
    AppDrained: lambda e: ("app drained", f"updates in flight: {e.waited}", ""),
    AppStopped: lambda _: ("app stopped", "", "bold"),
    AppCrashed: _crashed,
}

#: The same for messages and updates that simply were delivered.
DELIVERED: Final[dict[str, Callable[[UnitFact], Told]]] = {
    vocabulary.MESSAGE_SENT: lambda f: (
        f.name,
        [f"{f.method} sent", *again(f), ", ".join(f.where)],
        "",
    ),
    vocabulary.UPDATE_DONE: lambda f: (f.name, ["done", *again(f)], ""),
}
#: The same for records of what needs attention, other than the ends of units.
TROUBLES: Final[dict[str, Callable[[UnitFact], Told]]] = {
    vocabulary.UNIT_SLOW: lambda f: (f.name, ["still open", *whose(f)], "yellow"),
    vocabulary.UNIT_RETRY: lambda f: (f.name, ["retried", *whose(f)], "yellow"),
    vocabulary.POOL_EXHAUSTED: lambda f: (
        f"no connection{f.on_database}",
        [f"{_held(f.size)} for too long", *whose(f)],
        "yellow",
    ),
    vocabulary.REPLICA_LOST: lambda f: (f"replica lost{f.on_database}", [f.reason], "yellow"),
    vocabulary.REPLICA_RECOVERED: lambda f: (f"replica is back{f.on_database}", [], "green"),
    vocabulary.DRIFTED: lambda f: (f"tables differ{f.on_database}", [], "yellow"),
    vocabulary.MESSAGE_RETRIED: lambda f: (f.name, [f"{f.method} retried", *whose(f)], "yellow"),
    vocabulary.MESSAGE_DEAD: lambda f: (f.name, [f"{f.method} dead", *whose(f)], "yellow"),
    vocabulary.MESSAGE_UNKNOWN: lambda f: (
        f.name,
        [f"{f.method} may have been sent", *whose(f)],
        "yellow",
    ),
    vocabulary.UPDATE_RETRIED: lambda f: (f.name, ["retried", f.error], "yellow"),
    vocabulary.UPDATE_TAKEN: lambda f: (f.name, ["another process has it"], "yellow"),
    vocabulary.UPDATE_PARKED: lambda f: (f.name, ["parked", f.error], "yellow"),
    vocabulary.BEHIND: lambda f: ("delivery is behind", [waiting(f)], "yellow"),
    vocabulary.CAUGHT_UP: lambda _: ("delivery has caught up", [], "green"),
    vocabulary.UNSAFE: lambda f: ("commits may be lost", list(f.settings), "yellow"),
    unit_log.RECORD_LOST: lambda f: (
        "record of units",
        [f"{counted(f.lines, 'line')} could not be written"],
        "yellow",
    ),
}

#: What was away is back.
BACK: Final = (vocabulary.REPLICA_RECOVERED, vocabulary.CAUGHT_UP)
#: Title of a moment of the picture, for the same records.
MOMENTS: Final[dict[str, Callable[[UnitFact], str]]] = {
    vocabulary.POOL_EXHAUSTED: lambda f: f"no connection was free{f.on_database}",
    vocabulary.UNIT_SLOW: lambda f: f"{f.name} is slow",
    vocabulary.UNIT_RETRY: lambda f: f"{f.name} is retried",
    vocabulary.DRIFTED: lambda f: f"tables differ{f.on_database}",
    vocabulary.REPLICA_LOST: lambda f: f"replica lost{f.on_database}",
    vocabulary.REPLICA_RECOVERED: lambda f: f"replica is back{f.on_database}",
    vocabulary.MESSAGE_RETRIED: lambda f: f"{f.name} is retried",
    vocabulary.MESSAGE_DEAD: lambda f: f"{f.name} is dead",
    vocabulary.MESSAGE_UNKNOWN: lambda f: f"{f.name} may have been sent",
    vocabulary.UPDATE_RETRIED: lambda f: f"{f.name} is retried",
    vocabulary.UPDATE_TAKEN: lambda f: f"another process has {f.name}",
    vocabulary.UPDATE_PARKED: lambda f: f"{f.name} is parked",
    vocabulary.BEHIND: lambda _: "delivery is behind",
    vocabulary.CAUGHT_UP: lambda _: "delivery has caught up",
    vocabulary.UNSAFE: lambda _: "commits may be lost",
}
