"""What happened in one run: its hooks with begin, end and outcome, told from the journal."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, Literal

import msgspec

from lifecycle.event import Event
from lifecycle.events import (
    AppStopped,
    Hook,
    PluginEvent,
    PluginFailed,
    PluginLoading,
    PluginStarting,
    PluginStopping,
    PluginUnloading,
)
from lifecycle.journal import JournalEntry, Run

#: Events that begin a hook; the next plugin.* event of the plugin ends it.
_BEGINS: Final[dict[type[Event], Hook]] = {
    PluginLoading: "load",
    PluginStarting: "start",
    PluginStopping: "stop",
    PluginUnloading: "unload",
}
_ENDS: Final = frozenset(
    ("plugin.loaded", "plugin.started", "plugin.stopped", "plugin.unloaded", "plugin.failed")
)


class HookRun(msgspec.Struct, frozen=True, kw_only=True):
    """One hook of one plugin, from its begin to its end.

    Args:
        plugin: The plugin.
        hook: The hook.
        begun: When, seconds since the epoch.
        duration: Seconds it took; None while it runs, and when the process died in it.
        outcome: `open` when the journal does not say how it ended.
        error: What it failed with, in one line.
        cleanup_errors: What went wrong while giving back, a line each.
        facts: What the plugin did meanwhile, in order.
    """

    plugin: str
    hook: Hook
    begun: float
    duration: float | None = None
    outcome: Literal["done", "failed", "open"] = "open"
    error: str = ""
    cleanup_errors: tuple[str, ...] = ()
    facts: tuple[Event, ...] = ()


#: A hook, or an event that belongs to none.
Step = HookRun | Event


class Steps:
    """Folds events into steps, one after the other."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Hook, Event, list[Event]]] = {}

    def feed(self, event: Event) -> Step | None:
        """Take the next event.

        Returns:
            What is complete with it: a hook at its end, or an event that belongs to no hook.
        """
        if isinstance(event, PluginEvent):
            hook = _BEGINS.get(type(event))
            if hook is not None:
                self._open[event.plugin] = (hook, event, [])
                return None
            if event.plugin in self._open:
                if event.topic in _ENDS:
                    return _ended(*self._open.pop(event.plugin), event)
                self._open[event.plugin][2].append(event)
                return None
        return event

    def open(self) -> list[HookRun]:
        """Return the hooks whose end was not seen."""
        return [
            HookRun(plugin=plugin, hook=hook, begun=begin.at, facts=tuple(facts))
            for plugin, (hook, begin, facts) in self._open.items()
        ]


def _ended(hook: Hook, begin: Event, facts: list[Event], end: PluginEvent) -> HookRun:
    failed = end if isinstance(end, PluginFailed) else None
    return HookRun(
        plugin=end.plugin,
        hook=hook,
        begun=begin.at,
        duration=getattr(end, "duration", 0.0),
        outcome="failed" if failed else "done",
        error=failed.error if failed else "",
        cleanup_errors=failed.cleanup_errors if failed else (),
        facts=tuple(facts),
    )


def steps(events: Iterable[Event]) -> Iterator[Step]:
    """Fold *events* of one run into steps, those without an end last."""
    fold = Steps()
    for event in events:
        if (step := fold.feed(event)) is not None:
            yield step
    yield from fold.open()


class Outcome(StrEnum):
    """How a run ended."""

    WELL = "well"
    FAILED = "failed"
    DIED = "died"
    RUNNING = "running"


def outcome(entries: Iterable[JournalEntry], run: Run | None = None, *, live: bool) -> Outcome:
    """Return how a run ended.

    Args:
        entries: Its history.
        run: What the journal says about it; without, it has ended when no plugin holds anything.
        live: True when a process writes it now.

    Raises:
        IllegalHistoryError: *run* is not given, and no run can have produced these entries.
    """
    entries = list(entries)
    if run is not None:
        ended = run.ended_at is not None
    else:
        from lifecycle.plugins.machine import State  # noqa: PLC0415 -- only needed here
        from lifecycle.plugins.replay import replay  # noqa: PLC0415 -- only needed here

        holding_nothing = (State.UNLOADED, State.FAILED)
        ended = all(state in holding_nothing for state in replay(entries).values())
    if not ended:
        return Outcome.RUNNING if live else Outcome.DIED
    return Outcome.FAILED if failures(entries) else Outcome.WELL


def failures(entries: Iterable[JournalEntry]) -> list[str]:
    """Return what failed in a run, a line each.

    Args:
        entries: Its history.
    """
    lines = []
    for event in (entry.event for entry in entries):
        if isinstance(event, PluginFailed):
            lines.append(f"plugin {event.plugin!r} failed in {event.hook}: {event.error}")
        elif isinstance(event, AppStopped):
            # A failed hook has its own event.
            lines += [each for each in event.errors if not each.startswith("PluginFailedError:")]
    return lines


def duration_text(seconds: float) -> str:
    """Return *seconds* for people: `0.3 ms`, `1.234 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:  # noqa: PLR2004 -- seconds in a minute
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
