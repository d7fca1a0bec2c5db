"""Events to log, and a bus whose lines are read as soon as they are written."""

import io
import json
from typing import Any, ClassVar, Self

from db_manager.events import UnitClosed
from lifecycle.bus import EventBus
from lifecycle.correlation import Correlation
from lifecycle.event import Event, Level
from observability import logs

#: 2026-11-23 12:00:00.25 UTC.
NOON = 1795435200.25


class Begun(Event):
    """A unit that begins, as a class of the user's own."""

    topic: ClassVar[str] = "loglines.begin"
    level: ClassVar[Level] = "debug"

    unit: int


class Ended(Event, kw_only=True):
    """A unit that ends, under another topic than the real one."""

    topic: ClassVar[str] = "loglines.close"
    measures: ClassVar[tuple[str, ...]] = ("duration", "database_time", "statements")

    unit: int
    outcome: str = "committed"
    cause: str = ""
    error: str = ""
    duration: float
    database_time: float = 0.0
    statements: int = 0

    @property
    def log_level(self) -> Level:
        """Say that an unknown outcome is an error."""
        return "error" if self.outcome == "outcome_unknown" else "info"


class Said(Event):
    """Something that carries a text of somebody, and names that lines have for themselves."""

    topic: ClassVar[str] = "loglines.said"

    text: Any
    event: str = ""
    level_: str = ""
    timestamp: str = ""


class Output:
    """A bus with its lines, which are read when they are written."""

    def __init__(self, **options: Any) -> None:
        self.stream = io.StringIO()
        self.bus = EventBus()
        self.bus.run = 4
        options = {"stdlib": False, "format": "json", **options}
        self.lines = logs.attach(self.bus, stream=self.stream, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()

    def publish(self, *events: Event) -> str:
        """Publish events and return the text of all lines so far."""
        for event in events:
            self.bus.publish(event)
        return self.text

    @property
    def text(self) -> str:
        """All lines so far."""
        assert self.lines.flush()
        return self.stream.getvalue()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """All lines so far, read as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


def closed(**fields: Any) -> UnitClosed:
    """Return the event at the end of a real unit."""
    where = Correlation(update_id=7, chat_type="private", handler="notes.add", plugin="notes")
    values = {
        "at": NOON,
        "correlation": where,
        "unit": 3,
        "outcome": "committed",
        "duration": 0.01234567,
        "statements": 2,
        "database_time": 0.0081,
    }
    return UnitClosed(**{**values, **fields})


def ended(unit: int = 1, duration: float = 0.01, **fields: Any) -> Ended:
    """Return the event at the end of a unit of another kind."""
    return Ended(unit=unit, duration=duration, **fields)
