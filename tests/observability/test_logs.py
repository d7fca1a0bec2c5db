import io
import json
import logging
from collections.abc import Iterator
from typing import ClassVar

import pytest

from db_manager.events import Cause, Outcome, UnitClosed
from lifecycle.bus import EventBus
from lifecycle.events import Event, Level, PluginStarted, correlate
from observability import logs


class Ended(Event):
    """Stands for the end of a piece of work whose level depends on how it went."""

    topic: ClassVar[str] = "logtest.close"
    level: ClassVar[Level] = "info"

    outcome: str
    error: str = ""

    @property
    def log_level(self) -> Level:
        """Return the level of this one."""
        return "warning" if self.error else "info"


class Detail(Event):
    """Stands for an event that only a debugger wants."""

    topic: ClassVar[str] = "logtest.detail"
    level: ClassVar[Level] = "debug"


@pytest.fixture
def bus() -> EventBus:
    """Return a bus in run 7."""
    bus = EventBus()
    bus.run = 7
    return bus


@pytest.fixture
def stream() -> io.StringIO:
    """Return where the lines go."""
    return io.StringIO()


@pytest.fixture
def json_lines(bus: EventBus, stream: io.StringIO) -> Iterator[logs.LogLines]:
    """Log the bus as JSON."""
    lines = logs.attach(bus, format="json", stream=stream)
    yield lines
    lines.close()


def read(stream: io.StringIO) -> list[dict[str, object]]:
    """Return the lines as objects."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("json_lines")
def test_an_event_is_one_json_object(bus: EventBus, stream: io.StringIO) -> None:
    """An event becomes one JSON object with topic, level, time, run, correlation and fields."""
    with correlate(update_id=9, handler="notes.add"):
        bus.publish(PluginStarted(plugin="notes", duration=0.25, at=0.0))
    assert read(stream) == [
        {
            "event": "plugin.started",
            "level": "info",
            "timestamp": "1970-01-01T00:00:00.000Z",
            "run": 7,
            "update_id": 9,
            "handler": "notes.add",
            "plugin": "notes",
            "duration": 0.25,
        }
    ]


def test_the_console_form_is_aligned(bus: EventBus, stream: io.StringIO) -> None:
    """The console form has the time of day, a padded topic and milliseconds."""
    lines = logs.attach(bus, format="console", stream=stream)
    bus.publish(PluginStarted(plugin="notes", duration=0.25, at=0.0))
    lines.close()
    assert stream.getvalue() == (
        "00:00:00.000 [info     ] plugin.started       run=7 plugin=notes duration=250.0ms\n"
    )


@pytest.mark.usefixtures("json_lines")
def test_an_event_below_the_level_is_not_even_built(bus: EventBus) -> None:
    """Nobody listens to a topic whose lines would never be shown."""
    assert not bus.channel(Detail).handlers
    assert bus.channel(Ended).handlers


@pytest.mark.usefixtures("json_lines")
def test_the_event_itself_can_say_its_level(bus: EventBus, stream: io.StringIO) -> None:
    """An event with a `log_level` is shown with that."""
    bus.publish(Ended(outcome="rolled_back", error="ValueError: no"))
    assert [line["level"] for line in read(stream)] == ["warning"]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("evil", ["\n", "\r", "\x1b[2J", "\x00", "\u2028", "\u202e", "\x85"])
def test_user_text_cannot_forge_a_line(
    bus: EventBus, stream: io.StringIO, form: logs.Format, evil: str
) -> None:
    """Newlines, escape codes and marks of direction in a text are shown, not obeyed."""
    lines = logs.attach(bus, format=form, stream=stream)
    bus.publish(Ended(outcome="ok", error=f"a{evil}00:00 [info] forged"))
    logging.getLogger("aiogram").warning("b%s00:00 [info] forged", evil)
    lines.close()
    text = stream.getvalue()
    assert evil not in text.rstrip("\n").replace("\n", "", 1) if evil == "\n" else evil not in text
    assert len(text.splitlines()) == 2


def test_sampling_hides_ordinary_units_only(bus: EventBus, stream: io.StringIO) -> None:
    """With sample = 0 a unit that went well is hidden; slow and failed ones are shown."""
    lines = logs.attach(bus, format="json", stream=stream, sample=0.0, slow_unit=1.0)

    def close(duration: float, cause: Cause = "") -> None:
        outcome: Outcome = "rolled_back" if cause else "committed"
        bus.publish(
            UnitClosed(
                unit=1,
                outcome=outcome,
                cause=cause,
                duration=duration,
                statements=1,
                database_time=0.0,
            )
        )

    close(0.1)
    close(2.0)
    close(0.1, "error")
    lines.close()
    assert [(line["level"], line["outcome"]) for line in read(stream)] == [
        ("warning", "committed"),
        ("warning", "rolled_back"),
    ]


@pytest.mark.usefixtures("json_lines")
def test_aiograms_own_logs_come_out_in_the_same_form(stream: io.StringIO) -> None:
    """A line of aiogram's is an object too, with the correlation of the task that logged it."""
    with correlate(update_id=3):
        logging.getLogger("aiogram.dispatcher").warning("retrying in %s", 5)
    (line,) = read(stream)
    assert line["event"] == "retrying in 5"
    assert (line["logger"], line["update_id"], line["run"]) == ("aiogram.dispatcher", 3, 7)


@pytest.mark.usefixtures("json_lines")
def test_statements_are_not_echoed() -> None:
    """Attaching logs does not make SQLAlchemy log every statement."""
    assert not logging.getLogger("sqlalchemy.engine.Engine").isEnabledFor(logging.INFO)


def test_a_closed_stream_does_not_reach_the_publisher(bus: EventBus) -> None:
    """When the stream cannot be written, publishing goes on as if nobody listened."""
    stream = io.StringIO()
    lines = logs.attach(bus, format="json", stream=stream, stdlib=False)
    stream.close()
    bus.publish(PluginStarted(plugin="notes", duration=0.25))
    lines.close()


def test_close_leaves_the_loggers_as_they_were(bus: EventBus, stream: io.StringIO) -> None:
    """After close no line is written and the standard library's loggers are untouched."""
    logger = logging.getLogger("aiogram")
    before = (list(logger.handlers), logger.level, logger.propagate)
    logs.attach(bus, format="json", stream=stream).close()
    bus.publish(PluginStarted(plugin="notes", duration=0.25))
    assert stream.getvalue() == ""
    assert (list(logger.handlers), logger.level, logger.propagate) == before
