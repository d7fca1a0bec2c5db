"""Folds the events of a run into steps: hooks with begin, end and outcome, and single events."""

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from lifecycle.event import Event
from lifecycle.events import (
    Hook,
    PluginEvent,
    PluginFailed,
    PluginLoading,
    PluginStarting,
    PluginStopping,
    PluginUnloading,
)

#: Events that begin a hook.
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
        begun: When it began, seconds since the epoch.
        duration: Seconds it took; None while it runs, and if the process died in it.
        outcome: `open` when the journal does not say how it ended.
        error: The error it failed with, in one line.
        cleanup_errors: Errors while its resources were released, one line each.
        facts: Events of the plugin during the hook, in order.
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
    """Folds events into steps, one event at a time."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Hook, Event, list[Event]]] = {}

    def feed(self, event: Event) -> Step | None:
        """Take the next event.

        Returns:
            The step that it completes: a hook at its end, or an event outside of hooks.
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

    def is_open(self, plugin: str) -> bool:
        """Return True while a hook of *plugin* has not ended."""
        return plugin in self._open

    def open(self) -> list[HookRun]:
        """Return the hooks that have not ended."""
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
