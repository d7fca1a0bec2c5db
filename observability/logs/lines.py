"""Turns events into log lines: which of them, at which level, with which fields."""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from msgspec.structs import astuple

from lifecycle.bus import EventBus, Subscription
from lifecycle.correlation import Correlation
from lifecycle.event import EVENT_TYPES, Event, Level
from observability.logs.forms import RESERVED, step_aside
from observability.logs.writer import LineWriter

#: Makes the fields of a line; called when the line is written.
MakeFields = Callable[[], dict[str, Any]]
#: Writes a line, given its level, its topic, and a function that makes its fields.
Emit = Callable[[Level, str, MakeFields], None]

LEVELS: Final[dict[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Its multiples modulo 1 are evenly spread: any sequence of units is sampled at the right rate.
_GOLDEN_RATIO: Final = 0.618033988749895
#: The levels of lines that a sample may leave out.
_ORDINARY: Final = ("debug", "info")
#: Types whose zero is information, and is not dropped as empty.
_NUMBERS: Final = frozenset((int, float, bool))
_CORRELATION: Final = Correlation.__struct_fields__


class LogLines:
    """The log lines of one bus; `close`, or leaving it as a context manager, ends them.

    Made by `observability.logs.attach`.
    """

    def __init__(
        self, bus: EventBus, emit: Emit, *, level: Level, slow_unit: float, sample: float
    ) -> None:
        self._bus = bus
        self._emit = emit
        self._threshold = LEVELS[level]
        self._slow_unit = slow_unit
        self._sample = sample
        self._shapes: dict[type[Event], _Shape] = {}
        self._subscriptions: list[Subscription] = []
        #: Called by `close`, in reverse order.
        self.closers: list[Callable[[], None]] = []
        #: None when a logger of the user's own writes the lines.
        self.writer: LineWriter | None = None
        self._listen()

    @property
    def lost(self) -> int:
        """Number of lines that could not be written."""
        return 0 if self.writer is None else self.writer.lost

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until every line so far is written.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False after a timeout.
        """
        return self.writer is None or self.writer.flush(timeout)

    def close(self) -> None:
        """Write the waiting lines, detach, and restore the configuration of other loggers."""
        for subscription in self._subscriptions:
            subscription.cancel()
        self._subscriptions.clear()
        while self.closers:
            self.closers.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self) -> None:
        """Subscribe to every topic whose lines may be shown.

        The others have no subscriber from here, so their events need not be made.
        """
        for topic, kind in list(EVENT_TYPES.items()):
            if kind in self._shapes:
                continue
            shape = self._shapes[kind] = _Shape.of(kind)
            if shape.highest >= self._threshold:
                self._subscriptions.append(self._bus.subscribe(topic, self._write, passive=True))
        self._known = len(EVENT_TYPES)

    def _write(self, event: Event) -> None:
        if len(EVENT_TYPES) != self._known:
            self._listen()  # a module that defines events was imported since
        kind = type(event)
        shape = self._shapes.get(kind)
        if shape is None:  # another class than the one registered for its topic
            shape = self._shapes[kind] = _Shape.of(kind)
        level = self._level_of(event, shape)
        if level is not None and LEVELS[level] >= self._threshold:
            self._emit(level, event.topic, partial(_line, event, shape, self._bus.run))

    def _level_of(self, event: Any, shape: "_Shape") -> Level | None:
        """Return the level of the line; None when its unit is not in the sample."""
        level: Level = event.log_level if shape.varies else shape.level
        if shape.of_unit and level in _ORDINARY:
            if shape.ends_unit and event.duration >= self._slow_unit:
                return "warning"
            if self._sample < 1 and event.unit * _GOLDEN_RATIO % 1 >= self._sample:
                return None
        return level


def _line(event: Event, shape: "_Shape", run: int) -> dict[str, Any]:
    # Made for every unit. The values are as many as the fields: `strict` would cost a call.
    values = zip(shape.fields, astuple(event))  # noqa: B905 -- see above
    # Empty fields are dropped: they would bury the others.
    line: dict[str, Any] = {
        name: value for name, value in values if value or value.__class__ in _NUMBERS
    }
    where: Correlation = line.pop("correlation")
    for name in shape.measures:
        value = line.get(name)
        if value.__class__ is float:
            line[name] = round(value, 6)
    own = shape.fields
    if shape.steps_aside:
        step_aside(line)
    known = zip(_CORRELATION, astuple(where))  # noqa: B905 -- as above
    line |= {name: value for name, value in known if value is not None and name not in own}
    if "run" not in own:
        line["run"] = run
    return line


class _Shape(NamedTuple):
    """What a line depends on in an event class."""

    level: Level
    varies: bool
    of_unit: bool
    ends_unit: bool
    measures: tuple[str, ...]
    fields: tuple[str, ...]
    #: Whether a line has another use for the name of one of its fields.
    steps_aside: bool

    @classmethod
    def of(cls, kind: type[Event]) -> Self:
        """Read it from the class."""
        own = kind.__struct_fields__
        of_unit = "unit" in own
        return cls(
            level=kind.level,
            varies=hasattr(kind, "log_level"),
            of_unit=of_unit,
            ends_unit=of_unit and "duration" in kind.measures,
            measures=kind.measures,
            fields=own,
            steps_aside=not RESERVED.isdisjoint(own),
        )

    @property
    def highest(self) -> int:
        """The highest level that a line of the class may have."""
        if self.varies:
            return LEVELS["error"]
        return max(LEVELS[self.level], LEVELS["warning"] if self.ends_unit else 0)
