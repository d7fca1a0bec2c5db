"""The fold of a run into the states it leads to, and which histories no run can have made."""

from collections.abc import Iterable

from lifecycle.errors import IllegalHistoryError, TransitionNotAllowedError
from lifecycle.event import Event
from lifecycle.events import (
    AppCrashed,
    AppStarted,
    AppStopped,
    AppStopping,
    PluginEvent,
    ServiceProvided,
    ServiceWithdrawn,
)
from lifecycle.journal import JournalEntry
from lifecycle.plugins.machine import PluginFold, State

# A plugin in one of these holds nothing.
_EMPTY = (State.UNLOADED, State.FAILED)


class _RunFold:
    """What the events of one run say: the plugins, their services, and the application."""

    def __init__(self) -> None:
        self.plugins: dict[str, PluginFold] = {}
        self.services: dict[str, str] = {}
        self.stopping = False

    def apply(self, event: Event, *, first: bool) -> None:
        """Fold *event*.

        Raises:
            LifecycleError: The plugin cannot move that way from the state that it is in.
            ValueError: The event does not fit the events before it in another way.
        """
        match event:
            case ServiceProvided():
                self._provided(event)
            case ServiceWithdrawn():
                if self.services.pop(event.service, None) != event.plugin:
                    raise ValueError(f"{event.service!r} is withdrawn but was not provided")
            case PluginEvent() if event.topic.startswith("plugin."):
                self._moved(event)
            case AppCrashed() if not first:
                raise ValueError("app.crashed is not the first event of its run")
            case AppStarted():
                self._all_started(event)
            case AppStopping() | AppStopped():
                if self.stopping == isinstance(event, AppStopping):
                    raise ValueError(f"{event.topic} does not fit to the app.* event before it")
                self.stopping = not self.stopping

    def _moved(self, event: PluginEvent) -> None:
        fold = self.plugins.setdefault(event.plugin, PluginFold())
        fold.apply(event)
        held = [name for name, plugin in self.services.items() if plugin == event.plugin]
        if held and fold.state in _EMPTY:
            raise ValueError(f"plugin {event.plugin!r} is {fold.state} but provides {held}")

    def _provided(self, event: ServiceProvided) -> None:
        fold = self.plugins.get(event.plugin)
        if fold is None or fold.state in _EMPTY:
            raise ValueError(f"{event.service!r} is provided by a plugin that is not loaded")
        if event.service in self.services:
            raise ValueError(f"{event.service!r} is provided twice")
        self.services[event.service] = event.plugin

    def _all_started(self, event: AppStarted) -> None:
        if self.stopping:
            raise ValueError("app.started while the application is stopping")
        for name in event.plugins:
            if name not in self.plugins or self.plugins[name].state is not State.STARTED:
                raise ValueError(f"app.started, but plugin {name!r} is not started")


def replay(entries: Iterable[JournalEntry]) -> dict[str, State]:
    """Fold journal entries into the states they lead to.

    A new run begins with every plugin unloaded, so the states are those of the last run.

    Args:
        entries: Entries of one run or of consecutive runs, in the journal's order.

    Returns:
        The state of every plugin that the last run names.

    Raises:
        IllegalHistoryError: No run can have produced these entries.
    """
    fold = _RunFold()
    run, seq = 0, 0
    for entry in entries:
        if entry.run != run:
            if entry.run < run:
                raise IllegalHistoryError(entry.seq, f"run {entry.run} after run {run}")
            fold, run, seq = _RunFold(), entry.run, 0
        seq += 1
        if entry.seq != seq:
            raise IllegalHistoryError(entry.seq, f"expected sequence number {seq}")
        try:
            fold.apply(entry.event, first=seq == 1)
        except (TransitionNotAllowedError, ValueError) as error:
            raise IllegalHistoryError(entry.seq, str(error)) from error
    return {name: plugin.state for name, plugin in fold.plugins.items()}
