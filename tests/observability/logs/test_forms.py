"""The two forms of a line: literal texts, and what cannot be forged."""

import io
import json
import logging
from typing import ClassVar

import pytest
import structlog
from support.loglines import NOON, Output, Said, closed, ended

from lifecycle.bus import EventBus
from lifecycle.event import Event
from lifecycle.events import AppCrashed, PluginLoading
from observability import logs


def test_the_canonical_line_of_a_unit_in_json() -> None:
    """In JSON a unit's line is one object: time, level, topic, its fields, where it came from."""
    with Output() as output:
        assert output.publish(closed()) == (
            '{"timestamp":"2026-11-23T12:00:00.250000Z","level":"info","event":"uow.close",'
            '"unit":3,"outcome":"committed","duration":0.012346,"statements":2,'
            '"database_time":0.0081,"waited":0.0,"attempt":1,"update_id":7,"chat_type":"private",'
            '"handler":"notes.add","plugin":"notes","run":4}\n'
        )


def test_the_canonical_line_of_a_unit_on_a_console() -> None:
    """On a console the same fields stand behind aligned columns, seconds in a readable unit."""
    with Output(format="console") as output:
        slow = closed(unit=12, duration=1.5, outcome="rolled_back", cause="error", error="E: x y")
        assert output.publish(closed(), slow) == (
            "12:00:00.250Z info    uow.close            unit=3 outcome=committed duration=12.3ms "
            "statements=2 database_time=8.1ms waited=0.0ms attempt=1 update_id=7 chat_type=private "
            "handler=notes.add plugin=notes run=4\n"
            "12:00:00.250Z warning uow.close            unit=12 outcome=rolled_back cause=error "
            'error="E: x y" duration=1.500s statements=2 database_time=8.1ms waited=0.0ms '
            "attempt=1 update_id=7 chat_type=private handler=notes.add plugin=notes run=4\n"
        )


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets console form in colours, unless NO_COLOR says otherwise."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    event = PluginLoading(plugin="notes", at=NOON)
    texts = []
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        terminal, bus = Terminal(), EventBus()
        with logs.attach(bus, stream=terminal, level="debug", stdlib=False):
            bus.publish(event)
        texts.append(terminal.getvalue())
    assert texts == [
        (
            "\x1b[2m12:00:00.250Z\x1b[0m \x1b[2mdebug  \x1b[0m \x1b[1mplugin.loading      "
            "\x1b[0m \x1b[36mplugin=\x1b[0mnotes \x1b[36mrun=\x1b[0m0\n"
        ),
        "12:00:00.250Z debug   plugin.loading       plugin=notes run=0\n",
    ]


def test_json_where_nobody_looks() -> None:
    """A stream that is no terminal gets JSON when no form is asked for."""
    with Output(format=None) as output:
        output.publish(ended())
        assert output.objects[0]["event"] == "loglines.close"


def test_own_fields_win_and_reserved_names_step_aside() -> None:
    """A field named as the line's own gets an underscore; app.crashed names the run that died."""
    with Output() as output:
        output.publish(
            Said(text="hello", event="mine", timestamp="then", at=NOON), AppCrashed(run=3)
        )
        said, crashed = output.objects
    assert said == {
        "timestamp": "2026-11-23T12:00:00.250000Z",
        "level": "info",
        "event": "loglines.said",
        "text": "hello",
        "event_": "mine",
        "timestamp_": "then",
        "run": 4,
    }
    assert crashed["run"] == 3


class Twice(Event):
    """Has a name that lines have for themselves, and the one it would step aside to."""

    topic: ClassVar[str] = "forms.twice"

    event: str
    event_: str


def test_no_field_is_lost_when_another_steps_aside() -> None:
    """A field that steps aside gets as many `_` as it needs; the others keep their names."""
    with Output() as output:
        output.publish(Twice(event="mine", event_="mine too"))
        (line,) = output.objects
    assert line["event"] == "forms.twice"
    assert (line["event_"], line["event__"]) == ("mine too", "mine")


def test_a_time_that_is_none_loses_its_line_only() -> None:
    """An event whose time cannot be shown is counted as lost; the next ones are written."""
    with Output() as output:
        output.publish(closed(at=1e20), closed(unit=4))
        first, line, *_ = output.objects
    assert (first["event"], first["lines"]) == ("log.lost", 1)
    assert line["unit"] == 4


#: A line break, ESC, C1's next line and CSI, Unicode's line breaks, marks of direction, DEL.
EVIL = "a\n12:00 info x\r\x1b[31m\x85\x9b2J\u2028\u2029\u202e\u2066\u200f\u061c\x7f\x00b"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("where", ["field", "nested", "stdlib", "exception", "key"])
def test_nobody_forges_a_line(form: logs.Format, where: str) -> None:
    """Whatever a text holds, wherever it stands, no control character of it comes through."""
    with Output(format=form, stdlib=True) as output:
        if where in ("field", "nested"):
            output.publish(Said(text=EVIL if where == "field" else [{EVIL: (EVIL,)}]))
        elif where == "stdlib":
            logging.getLogger("aiogram.evil").warning("%s", EVIL)
        elif where == "key":
            structlog.get_logger().info("hello", **{EVIL: 1})
        else:
            logging.getLogger("aiogram.evil").error("bad", exc_info=ValueError(EVIL))
        text = output.text
    first, *below = text.removesuffix("\n").split("\n")
    for line in (first, *below):
        assert line.isprintable()
    assert all(line.startswith("    ") for line in below)
    assert bool(below) == (where == "exception" and form == "console")
    if (form, where) == ("json", "field"):
        assert json.loads(first)["text"] == EVIL


def test_no_text_forges_a_field() -> None:
    """On a console a text that looks like fields is quoted, and so is its quote."""
    with Output(format="console") as output:
        text = output.publish(Said(text='x" outcome=committed', at=NOON), Said(text="a=b", at=NOON))
    assert text == (
        r'12:00:00.250Z info    loglines.said        text="x\" outcome=committed" run=4' + "\n"
        '12:00:00.250Z info    loglines.said        text="a=b" run=4\n'
    )


def test_other_alphabets_stay_readable() -> None:
    """Cyrillic, emoji and joined emoji are shown as they are."""
    for form in ("json", "console"):
        with Output(format=form) as output:
            assert "Заметка 👩‍💻" in output.publish(Said(text="Заметка 👩‍💻"))


def test_the_token_of_a_bot_is_not_shown() -> None:
    """A bot's token, which stands in the addresses of its requests, is masked."""
    token = "123456789:AAF" + "x" * 32
    for form in ("json", "console"):
        with Output(format=form, stdlib=True) as output:
            logging.getLogger("aiogram").error("cannot get https://example.org/bot%s/getMe", token)
            assert "bot123456789:***/getMe" in output.text
            assert "AAF" not in output.text


class Unspeakable:
    """An object that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("value", ["\ud800", Unspeakable(), {(1, 2): Unspeakable()}, 2**80, b"x"])
def test_no_value_loses_its_line(form: logs.Format, value: object) -> None:
    """A value that is no JSON, no UTF-8 or no text at all does not lose the line."""
    with Output(format=form) as output:
        text = output.publish(Said(text=value))
    assert "loglines.said" in text
    assert text.isascii()
    assert text.count("\n") == 1
