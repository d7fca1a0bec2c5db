"""The states of a plugin, and the table of legal transitions between them."""

import logging
from enum import StrEnum
from typing import Final

from transitions import Machine, MachineError

from lifecycle.errors import TransitionNotAllowedError
from lifecycle.events import PluginEvent


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


#: With it begin the log lines of our machine.
_NAME: Final = "db_manager plugin"


def _machine() -> Machine:
    machine = Machine(
        model=None,
        name=_NAME,
        states=State,
        initial=State.UNLOADED,
        auto_transitions=False,
        send_event=False,
    )
    for trigger, sources, target in TRANSITIONS:
        # `degraded` names an attribute of the model: only what was lost can be back.
        condition = "degraded" if trigger == "recovered" else None
        machine.add_transition(trigger, list(sources), target, conditions=condition)
    return machine


# One table for all plugins. A trigger is fired with the model as its argument, so that the
# machine never has to hold (or forget) models.
_MACHINE = _machine()


def _is_foreign(record: logging.LogRecord) -> bool:
    """Return False for a log line of our machine; those of a bot's own machines pass."""
    return not (isinstance(record.args, tuple) and record.args[:1] == (_MACHINE.name,))


# Each transition is an event already, and the library writes two lines for it at level INFO.
logging.getLogger("transitions.core").addFilter(_is_foreign)


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


def to_mermaid() -> str:
    """Return the machine's own table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.UNLOADED}"]
    for trigger, event in _MACHINE.events.items():
        for moves in event.transitions.values():
            lines += [
                f"    {State[move.source]} --> {State[str(move.dest)]}: {trigger}" for move in moves
            ]
    return "\n".join(lines) + "\n"
