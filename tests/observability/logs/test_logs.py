import io
import json
import logging
from collections.abc import Iterator
from typing import ClassVar

import pytest
import structlog
from support.loglines import NOON, Begun, Output, Said, ended

from db_manager.events import Cause, Outcome, UnitClosed
from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from lifecycle.event import Event, Level
from lifecycle.events import PluginFailed, PluginStarted
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


def test_an_event_is_one_json_object(
    bus: EventBus, stream: io.StringIO, json_lines: logs.LogLines
) -> None:
    """An event becomes one JSON object with topic, level, time, run, correlation and fields."""
    with correlate(update_id=9, handler="notes.add"):
        bus.publish(PluginStarted(plugin="notes", duration=0.25, at=0.0))
    assert json_lines.flush()
    assert read(stream) == [
        {
            "event": "plugin.started",
            "level": "info",
            "timestamp": "1970-01-01T00:00:00Z",
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
        "00:00:00.000Z info    plugin.started       plugin=notes duration=250.0ms run=7\n"
    )


@pytest.mark.usefixtures("json_lines")
def test_an_event_below_the_level_is_not_even_built(bus: EventBus) -> None:
    """Nobody listens to a topic whose lines would never be shown."""
    assert not bus.channel(Detail).handlers
    assert bus.channel(Ended).handlers


def test_the_event_itself_can_say_its_level(
    bus: EventBus, stream: io.StringIO, json_lines: logs.LogLines
) -> None:
    """An event with a `log_level` is shown with that."""
    bus.publish(Ended(outcome="rolled_back", error="ValueError: no"))
    assert json_lines.flush()
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


def test_aiograms_own_logs_come_out_in_the_same_form(
    stream: io.StringIO, json_lines: logs.LogLines
) -> None:
    """A line of aiogram's is an object too, with the correlation of the task that logged it."""
    with correlate(update_id=3):
        logging.getLogger("aiogram.dispatcher").warning("retrying in %s", 5)
    assert json_lines.flush()
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


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["loglines.begin", "loglines.close", "plugin.failed"]),
        ("info", ["loglines.close", "plugin.failed"]),
        ("warning", ["plugin.failed"]),
        ("error", ["plugin.failed"]),
    ],
)
def test_level(level: Level, shown: list[str]) -> None:
    """Lines below the level are left out."""
    failed = PluginFailed(plugin="notes", hook="load", error="E", duration=0.1)
    with Output(level=level) as output:
        output.publish(Begun(unit=1), ended(), failed)
        assert [line["event"] for line in output.objects] == shown


def test_what_the_level_leaves_out_is_not_listened_to() -> None:
    """Nobody listens to a topic that the level leaves out, so its events are not even built."""
    with Output() as output:
        assert not output.bus.channel("loglines.begin").handlers
        assert not output.bus.channel("plugin.loading").handlers
        assert output.bus.channel("loglines.close").handlers
    assert not output.bus.channel("loglines.close").handlers
    assert not output.bus.subscriptions


def test_events_that_are_defined_later() -> None:
    """A module with events that is imported after the start gets its lines, too."""
    with Output() as output:

        class Late(Event):
            topic: ClassVar[str] = "loglines.late"

        output.publish(ended(), Late())
        assert [line["event"] for line in output.objects] == ["loglines.close", "loglines.late"]


def test_slow_units_are_warnings() -> None:
    """A unit that took as long as `slow_unit` is a warning, whatever it did."""
    with Output(slow_unit=0.5, level="warning") as output:
        output.publish(ended(1, 0.49), ended(2, 0.5), ended(3, 9, outcome="outcome_unknown"))
        assert [(line["unit"], line["level"]) for line in output.objects] == [
            (2, "warning"),
            (3, "error"),
        ]


def test_a_sample_is_a_share_of_whole_units() -> None:
    """Of any hundred units in a row a tenth is shown, each with all its lines or with none."""
    with Output(sample=0.1, level="debug") as output:
        for unit in range(1, 101):
            output.bus.publish(Begun(unit=unit))
            output.bus.publish(ended(unit))
        shown = [(line["unit"], line["event"]) for line in output.objects]
    units = [unit for unit, topic in shown if topic == "loglines.close"]
    assert 9 <= len(units) <= 11
    assert units == [unit for unit, topic in shown if topic == "loglines.begin"]


def test_a_sample_leaves_out_no_error_and_no_slow_unit() -> None:
    """Even with a sample of nothing, errors, slow units and other events come through."""
    with Output(sample=0.0) as output:
        output.publish(ended(1), ended(2, 1.0), ended(3, outcome="outcome_unknown"), Said(text="x"))
        assert [line.get("unit") for line in output.objects] == [2, 3, None]


def test_a_logger_of_your_own() -> None:
    """Events go to a structlog logger of the user's own, when there is one."""
    bus = EventBus()
    with structlog.testing.capture_logs() as captured:
        with logs.attach(bus, logger=structlog.get_logger()):
            bus.publish(Said(text="hello", at=NOON))
        bus.publish(Said(text="after the end"))
    assert captured == [
        {"event": "loglines.said", "log_level": "info", "at": NOON, "text": "hello", "run": 0}
    ]
