"""Lines of other loggers: the same form, their correlation, and how they are left."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog
from support.loglines import Output

from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from observability import logs


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Leave structlog unconfigured: capture_logs does not."""
    yield
    structlog.reset_defaults()


def test_the_standard_librarys_lines_have_the_same_form() -> None:
    """A line of aiogram's logger has our form and the correlation of its task."""
    with Output(stdlib=True) as output, correlate(update_id=7, plugin="notes", unit=3):
        logging.getLogger("aiogram.dispatcher").warning("Failed to fetch %s", "updates")
        (line,) = output.objects
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "event": "Failed to fetch updates",
        "logger": "aiogram.dispatcher",
        "update_id": 7,
        "plugin": "notes",
        "unit": 3,
        "run": 4,
    }


def test_a_traceback_is_indented_below_its_line() -> None:
    """On a console a traceback stands below its line, without the values of variables."""
    secret = "s3cret"
    with Output(format="console", stdlib=True) as output:
        try:
            {"x": 1}.pop(str(len(secret)))
        except KeyError:
            logging.getLogger("aiogram").exception("it failed")
        first, second, *_, last = output.text.splitlines()
    assert first.endswith("error   it failed            logger=aiogram run=4")
    assert second == "    Traceback (most recent call last):"
    assert last == "    KeyError: '6'"
    assert secret not in output.text


def test_structlogs_loggers_have_the_same_form() -> None:
    """A structlog logger that nobody configured writes our form with its correlation."""
    logger = structlog.get_logger()
    with Output(stdlib=True) as output, correlate(update_id=7):
        logger.debug("not shown")
        logger.info("hello", name="x")
        logger.error("bad", exc_info=ValueError("boom"), at="noon")
        hello, bad = output.objects
    del hello["timestamp"]
    assert hello == {"level": "info", "event": "hello", "name": "x", "update_id": 7, "run": 4}
    assert (bad["level"], bad["at"]) == ("error", "noon")
    assert bad["exception"].endswith("ValueError: boom")
    assert not structlog.is_configured()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("name", ["at", "level", "timestamp", "event_", "logger", "exc", "run"])
@pytest.mark.parametrize("value", ["noon", None, -1, 1e99, [], object()])
def test_no_field_of_a_caller_breaks_or_forges_a_line(
    form: logs.Format, name: str, value: object
) -> None:
    """Whatever a field is called and holds, the line has its own time, level and event."""
    with Output(stdlib=True, format=form) as output:
        structlog.get_logger().warning("hello", **{name: value})
        text = output.text
    assert text.count("\n") == 1
    if form == "json":
        line = json.loads(text)
        assert datetime.fromisoformat(line["timestamp"]).year > 2000
        assert (line["level"], line["event"]) == ("warning", "hello")
    else:
        assert " warning hello " in text


def test_a_configured_structlog_is_left_alone() -> None:
    """Who configured structlog keeps that, and adds `add_correlation` by themselves."""
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[logs.add_correlation, captured])
    try:
        with Output(stdlib=True) as output, correlate(unit=3):
            structlog.get_logger().info("hello")
            assert output.text == ""
        assert structlog.is_configured()
    finally:
        structlog.reset_defaults()
    assert captured.entries == [{"unit": 3, "event": "hello", "log_level": "info"}]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is as before after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_one_stream_has_one_form(root: logging.Logger) -> None:
    """A handler of basicConfig for our stream is put aside, others stay, and all come back."""
    stream = io.StringIO()
    same, other = logging.StreamHandler(stream), logging.StreamHandler(io.StringIO())
    root.addHandler(same)
    root.addHandler(other)
    root.setLevel(logging.ERROR)
    before = list(root.handlers)
    bus = EventBus()
    with logs.attach(bus, stream=stream, format="console"):
        assert same not in root.handlers
        assert other in root.handlers
        assert root.level == logging.INFO
        logging.getLogger("mine").info("hello")
    assert stream.getvalue().count("hello") == 1
    assert set(root.handlers) == set(before)
    assert root.level == logging.ERROR


def test_several_bots_join_and_leave_in_any_order(root: logging.Logger) -> None:
    """The last one of a stream shows its lines, and when all have left it is as it was."""
    for first_leaves_first in (True, False):
        stream, other = io.StringIO(), io.StringIO()
        same = logging.StreamHandler(stream)
        root.addHandler(same)
        root.setLevel(logging.WARNING)
        before = list(root.handlers)
        first = logs.attach(EventBus(), stream=stream, format="console", level="debug")
        second = logs.attach(EventBus(), stream=stream, format="console")
        third = logs.attach(EventBus(), stream=other, format="console", level="error")
        assert root.level == logging.DEBUG
        for attached in (first, second) if first_leaves_first else (second, first):
            said = stream.getvalue().count("hello")
            logging.getLogger("mine").warning("hello")
            structlog.get_logger().error("hello")
            attached.close()
            assert stream.getvalue().count("hello") == said + 1
        assert root.level == logging.ERROR
        third.close()
        assert other.getvalue().count("hello") == 2
        assert set(root.handlers) == set(before)
        assert root.level == logging.WARNING
        assert logging.getLogger("aiosqlite").level == logging.NOTSET
        assert not structlog.is_configured()
        root.removeHandler(same)


def test_one_bot_goes_on_when_another_has_left(root: logging.Logger) -> None:
    """What is left shows its lines at its level, of structlog too."""
    streams = io.StringIO(), io.StringIO()
    for leaving, staying in ((0, 1), (1, 0)):
        attached = [logs.attach(EventBus(), stream=each, format="console") for each in streams]
        attached[leaving].close()
        assert root.level == logging.INFO
        said = streams[staying].getvalue().count("hello")
        logging.getLogger("mine").info("hello")
        structlog.get_logger().info("hello")
        attached[staying].close()
        assert streams[staying].getvalue().count("hello") == said + 2
    assert streams[0].getvalue().count("hello") == streams[1].getvalue().count("hello") == 2


def test_statements_with_their_values_are_not_shown() -> None:
    """At the level debug aiosqlite's lines, which hold the values of statements, are left out."""
    with Output(stdlib=True, level="debug") as output:
        logging.getLogger("aiosqlite").debug("executing %s", "s3cret")
        logging.getLogger("sqlalchemy.engine.Engine").info("[generated] %s", "s3cret")
        assert output.text == ""
    assert logging.getLogger("aiosqlite").level == logging.NOTSET


def test_a_handled_update_has_one_line() -> None:
    """Aiogram's line for a handled update is left out; that one was not handled is shown."""
    with Output(stdlib=True) as output:
        for answer in ("handled", "not handled"):
            logging.getLogger("aiogram.event").info(
                "Update id=%s is %s. Duration %d ms by bot id=%d", 1, answer, 5, 42
            )
        assert [line["event"] for line in output.objects] == [
            "Update id=1 is not handled. Duration 5 ms by bot id=42"
        ]


def test_a_long_text_is_shortened() -> None:
    """A text of a library without end is shortened in the middle."""
    text = "a" * 10_000 + "z" * 10_000
    with Output(stdlib=True) as output:
        logging.getLogger("aiogram").warning(text)
        (line,) = output.objects
    assert line["event"] == "a" * 4000 + " … 12000 characters … " + "z" * 4000


def test_a_wrong_call_is_reported_by_logging(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log call with wrong arguments raises nothing; logging says where it stands."""
    root.handlers.clear()  # pytest's own handler raises there
    with Output(stdlib=True) as output:
        logging.getLogger("aiogram").warning("%d", "x")
        assert output.text == ""
    assert "--- Logging error ---" in capsys.readouterr().err
