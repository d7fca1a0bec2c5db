"""Our table of a plugin's states beside the state machines one would take instead."""

from collections.abc import Callable
from enum import StrEnum, auto
from typing import Any, Final

import statemachine
import transitions

from benchmarks.calls import Call, medians, take_turns, weigh
from benchmarks.report import Scale, Section, Table
from lifecycle.events import PluginStarted, PluginStarting, PluginStopped, PluginStopping
from lifecycle.plugins.machine import PluginFold, State

NAME = "machines"

#: A circle that can be gone for ever.
EVENTS: Final = (
    PluginStarting(plugin="notes"),
    PluginStarted(plugin="notes", duration=0.1),
    PluginStopping(plugin="notes"),
    PluginStopped(plugin="notes", duration=0.1),
)
#: Trigger, where from, where to.
CIRCLE: Final = (
    ("starting", "stopped", "starting"),
    ("started", "starting", "started"),
    ("stopping", "started", "stopping"),
    ("stopped", "stopping", "stopped"),
)
STATES: Final = ["stopped", "starting", "started", "stopping"]


class _Step(StrEnum):
    STOPPED = auto()
    STARTING = auto()
    STARTED = auto()
    STOPPING = auto()


_TABLE: Final = {(_Step(source), trigger): _Step(target) for trigger, source, target in CIRCLE}


class _Tabled:
    """The floor: one look into a dict."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = _Step.STOPPED

    def move(self, trigger: str) -> None:
        """Go where the table says."""
        self.state = _TABLE[self.state, trigger]


class _Model:
    """What `transitions` puts its methods on."""

    state: str


def _own_machine() -> transitions.Machine:
    machine = transitions.Machine(states=STATES, initial="stopped", auto_transitions=False)
    for trigger, source, target in CIRCLE:
        machine.add_transition(f"go_{trigger}", source, target)
    return machine


_SHARED: Final = transitions.Machine(
    model=None, states=STATES, initial="stopped", auto_transitions=False
)
for _trigger, _source, _target in CIRCLE:
    _SHARED.add_transition(f"go_{_trigger}", _source, _target)


def _shared_model() -> _Model:
    model = _Model()
    _SHARED.add_model(model)
    return model


class _Circle(statemachine.StateMachine):
    stopped = statemachine.State(initial=True)
    starting = statemachine.State()
    started = statemachine.State()
    stopping = statemachine.State()

    go_starting = stopped.to(starting)
    go_started = starting.to(started)
    go_stopping = started.to(stopping)
    go_stopped = stopping.to(stopped)


def _fold() -> PluginFold:
    fold = PluginFold()
    fold.state = State.STOPPED
    return fold


def _contenders() -> dict[str, tuple[Callable[[], Any], str]]:
    """Return how each is made, and how it goes round once."""
    gone = "; ".join(f"one.go_{trigger}()" for trigger, _, _ in CIRCLE)
    return {
        "a dict of enums": (_Tabled, "; ".join(f"one.move({t!r})" for t, _, _ in CIRCLE)),
        "ours: event applied to the fold": (_fold, "for event in EVENTS: one.apply(event)"),
        "transitions, models of one machine": (_shared_model, gone),
        "transitions, a machine each": (_own_machine, gone),
        "python-statemachine": (_Circle, gone),
    }


async def measure(scale: Scale) -> Section:
    """Measure state machines.

    Args:
        scale: How much.
    """
    contenders = _contenders()
    moves = medians(
        take_turns(
            {
                name: Call(statement, {"one": make(), "EVENTS": EVENTS})
                for name, (make, statement) in contenders.items()
            },
            scale.rounds,
        )
    )
    # A model of a shared machine is held by it: few are made, and they are let go again.
    makes = medians(
        take_turns(
            {
                name: Call("make(); forget()", {"make": make, "forget": _forget})
                for name, (make, _) in contenders.items()
            },
            scale.rounds,
        )
    )
    count = 20 if scale.quick else 200
    rows: list[tuple[str | float, ...]] = []
    for name, (make, _) in contenders.items():
        each = moves[name] / len(CIRCLE)
        rows.append((name, each / 1e3, round(1e9 / each), makes[name] / 1e3, weigh(make, count)))
        _forget()
    table = Table(
        "One transition, one instance",
        ("", "transition µs", "transitions per second", "create µs", "bytes"),
        rows,
        "Ours is a shared `transitions` table that is fired with the plugin's fold as an argument, "
        "so that nothing is made for a plugin but its two fields. The dict checks nothing but the "
        "table.",
    )
    text = (
        "Four states in a circle (`stopped`, `starting`, `started`, `stopping`), without hooks; "
        "every number is the median of interleaved rounds. `lifecycle` makes eight such steps in "
        "the life of a plugin, none for an update or a unit of work."
    )
    return Section("State machines", text, [table])


def _forget() -> None:
    _SHARED.models.clear()
