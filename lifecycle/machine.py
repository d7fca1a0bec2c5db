"""The states of a plugin, the table of legal transitions, and the fold of events into states."""

from collections.abc import Iterable
from enum import StrEnum

from transitions import Machine, MachineError

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


class State(StrEnum):
    """Where a plugin is in its life; in a state that ends in -ing its hook is running."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    UNLOADING = "unloading"
    FAILED = "failed"


#: Trigger, states it is allowed in, state it leads to. A trigger is the last token of a topic.
TRANSITIONS: tuple[tuple[str, tuple[State, ...], State], ...] = (
    ("loading", (State.UNLOADED,), State.LOADING),
    ("loaded", (State.LOADING,), State.LOADED),
    ("starting", (State.LOADED, State.STOPPED), State.STARTING),
    ("started", (State.STARTING,), State.STARTED),
    ("degraded", (State.STARTED,), State.STARTED),
    ("recovered", (State.STARTED,), State.STARTED),
    ("stopping", (State.STARTED,), State.STOPPING),
    ("stopped", (State.STOPPING,), State.STOPPED),
    ("unloading", (State.LOADED, State.STOPPED, State.FAILED), State.UNLOADING),
    ("unloaded", (State.UNLOADING,), State.UNLOADED),
    (
        "failed",
        (State.LOADING, State.STARTING, State.STOPPING, State.UNLOADING),
        State.FAILED,
    ),
)

# A plugin in one of these holds nothing.
_EMPTY = (State.UNLOADED, State.FAILED)


def _machine() -> Machine:
    machine = Machine(
        model=None, states=State, initial=State.UNLOADED, auto_transitions=False, send_event=False
    )
    for trigger, sources, target in TRANSITIONS:
        # `degraded` names an attribute of the model: only what was lost can be back.
        condition = "degraded" if trigger == "recovered" else None
        machine.add_transition(trigger, list(sources), target, conditions=condition)
    return machine


# One table for all plugins. A trigger is fired with the model as its argument, so that the
# machine never has to hold (or forget) models.
_MACHINE = _machine()


class PluginFold:
    """The state of one plugin: the fold of its events, and nothing else."""

    __slots__ = ("degraded", "state")

    def __init__(self) -> None:
        self.state = State.UNLOADED
        self.degraded = False

    def apply(self, event: PluginEvent) -> None:
        """Move to the state that *event* leads to.

        Raises:
            TransitionNotAllowedError: The present state does not allow it.
        """
        trigger = event.topic.rpartition(".")[2]
        try:
            moved = _MACHINE.events[trigger].trigger(self)
        except (KeyError, MachineError):
            moved = False
        if not moved:
            raise TransitionNotAllowedError(event.plugin, self.state, trigger)
        self.degraded = trigger == "degraded"


class _RunFold:
    """What the events of one run say: the plugins, their services, and the application."""

    def __init__(self) -> None:
        self.plugins: dict[str, PluginFold] = {}
        self.services: dict[str, str] = {}
        self.stopping = False

    def apply(self, event: Event, *, first: bool) -> None:
        """Fold *event*; raise LifecycleError or ValueError when it does not fit."""
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


def to_mermaid() -> str:
    """Return the machine's own table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.UNLOADED}"]
    for trigger, event in _MACHINE.events.items():
        for moves in event.transitions.values():
            lines += [
                f"    {State[move.source]} --> {State[str(move.dest)]}: {trigger}" for move in moves
            ]
    return "\n".join(lines) + "\n"
