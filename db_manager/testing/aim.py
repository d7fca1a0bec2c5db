"""Which units a fault strikes: those of a handler, those of a plugin, the n-th."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypedDict

from db_manager.events import UnitBegun
from lifecycle.bus import EventBus, Subscription
from lifecycle.correlation import current_correlation

#: Packages whose functions are not named as the place where a unit was opened.
_NOT_THE_PLACE = frozenset(
    ("aiogram", "asyncio", "contextlib", "db_manager", "lifecycle", "tenacity")
)
#: aiogram's middlewares and the handler run below this module, in one task.
_BRIDGE = "lifecycle.bot.in_flight"
#: Units that an error lists.
_MOST = 20


@dataclass(frozen=True, slots=True)
class SeenUnit:
    """A unit that began while faults could strike.

    Args:
        number: Its number.
        within: The functions and classes that it was opened in, with their modules.
        plugin: The plugin that it belongs to.
        text: What an error says about it.
    """

    number: int
    within: frozenset[str]
    plugin: str | None
    text: str


class Aimed(TypedDict, total=False):
    """The arguments of `Aim`."""

    handler: str
    plugin: str
    unit: int


@dataclass(frozen=True, slots=True)
class Aim:
    """The units that a fault strikes.

    Args:
        handler: Only those opened in this function or class, or in what it calls.
        plugin: Only those of this plugin.
        unit: Only from the n-th of these on, counted from 1.

    Raises:
        ValueError: *unit* is less than 1.
    """

    handler: str | None = None
    plugin: str | None = None
    unit: int | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit < 1:
            raise ValueError(f"unit: {self.unit} is none; the first unit is 1")

    @property
    def is_anywhere(self) -> bool:
        """True when the next occasion is meant, in a unit or not."""
        return self == Aim()

    def takes(self, number: int | None, units: Sequence[SeenUnit]) -> bool:
        """Return True for a unit that is to be struck.

        Args:
            number: Number of the unit; None outside of one.
            units: What has begun since the fault was armed.
        """
        if self.is_anywhere:
            return True
        meant = [each.number for each in units if self._matches(each)]
        return number in meant[(self.unit or 1) - 1 :]

    def _matches(self, seen: SeenUnit) -> bool:
        if self.plugin is not None and seen.plugin != self.plugin:
            return False
        return self.handler is None or any(_is(each, self.handler) for each in seen.within)

    def __str__(self) -> str:
        said = {"handler": self.handler, "plugin": self.plugin, "unit": self.unit}
        return ", ".join(f"{key}={value!r}" for key, value in said.items() if value is not None)


class Witness:
    """Sees which units begin, and where in the code.

    Args:
        bus: The bus on which they are published.
    """

    def __init__(self, bus: EventBus) -> None:
        self.units: list[SeenUnit] = []
        self._bus = bus
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """See what begins from now on."""
        if self._subscription is None:
            self._subscription = self._bus.subscribe("uow.begin", self._see, passive=True)

    def close(self) -> None:
        """See no more."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def tell(self, since: int) -> str:
        """Say which units began, for an error.

        Args:
            since: How many had begun before.
        """
        told = [each.text for each in self.units[since:]]
        if not told:
            return "no unit of work was opened on the bus of the sandbox"
        left = len(told) - _MOST
        more = [f"and {left} more"] if left > 0 else []
        return "\n  ".join(["the units that were opened:", *told[:_MOST], *more])

    def _see(self, event: UnitBegun) -> None:
        where = current_correlation()
        frames = list(_frames(inspect.currentframe()))
        within = {name for frame in frames for name in _names(frame)}
        if where.handler and not any(_module(frame) == _BRIDGE for frame in frames):
            within.add(where.handler)  # in a task that the handler started
        parts = [f"unit {event.unit}", f"opened in {_place(frames)}"]
        parts += ["only reading"] if event.read_only else []
        parts += [f"plugin {where.plugin}"] if where.plugin else []
        parts += [f"update {where.update_id}"] if where.update_id is not None else []
        text = ", ".join(parts)
        self.units.append(SeenUnit(event.unit, frozenset(within), where.plugin, text))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _names(frame: FrameType) -> Iterator[str]:
    """Yield the names of a function and of its class, with their module."""
    name = f"{_module(frame)}.{frame.f_code.co_qualname}"
    yield name
    owner = name.rpartition(".")[0]
    if owner != _module(frame) and not owner.endswith("<locals>"):
        yield owner


def _place(frames: Sequence[FrameType]) -> str:
    """Return the function that opened a unit, and who called it."""
    places = [each for each in frames if _module(each).partition(".")[0] not in _NOT_THE_PLACE]
    if not places:
        return "db_manager itself"
    here, *callers = places
    file = Path(here.f_code.co_filename).name
    caller = f", called by {callers[0].f_code.co_qualname}" if callers else ""
    return f"{here.f_code.co_qualname} ({file}:{here.f_lineno}){caller}"


def _is(name: str, wanted: str) -> bool:
    """Return True if *wanted* is *name*, or its end; of an inner function only its own name."""
    return name == wanted or f".{name.rpartition('<locals>.')[2]}".endswith(f".{wanted}")
