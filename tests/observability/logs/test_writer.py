"""Streams that break and block: publishing goes on, and what is lost is said."""

import io
import json
import logging
import subprocess
import sys
import threading
from functools import partialmethod
from pathlib import Path

import pytest
from support.loglines import NOON, Output, Said, ended

from lifecycle.bus import EventBus
from lifecycle.event import Event
from observability import logs
from observability.logs.writer import LineWriter


class Broken(io.StringIO):
    """A stream that raises while it is broken."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        """Write, or raise."""
        if self.error is not None:
            raise self.error
        return super().write(text)


def test_a_broken_stream_harms_nobody_and_says_later_what_is_lost() -> None:
    """Lines that the stream refused are counted, and the count is a line when it works again."""
    stream, bus = Broken(), EventBus()
    failures: list[Event] = []
    bus.subscribe("subscriber.*", failures.append)
    with logs.attach(bus, stream=stream, format="console") as lines:
        stream.error = OSError(28, "No space left on device")
        bus.publish(ended(1))
        assert lines.flush()
        bus.publish(ended(2))
        assert lines.flush()
        assert lines.lost == 2
        stream.error = None
        bus.publish(Said(text="again", at=NOON))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("error   log.lost             lines=2")
    assert second == "12:00:00.250Z info    loglines.said        text=again run=0"
    assert failures == []


def test_a_closed_stream_harms_nobody() -> None:
    """A stream that somebody closed takes nothing, and the publisher does not notice."""
    stream, bus = io.StringIO(), EventBus()
    with logs.attach(bus, stream=stream) as lines:
        stream.close()
        bus.publish(ended())
        logging.getLogger("aiogram").warning("hello")
    assert lines.lost == 2


def test_a_stream_that_blocks_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the stream blocks, publishing goes on; what is too much is lost and counted."""
    monkeypatch.setattr(LineWriter, "__init__", partialmethod(LineWriter.__init__, capacity=5))
    entered, gate = threading.Event(), threading.Event()

    class Blocking(io.StringIO):
        def write(self, text: str) -> int:
            entered.set()
            assert gate.wait(10)
            return super().write(text)

    stream, bus = Blocking(), EventBus()
    with logs.attach(bus, stream=stream, stdlib=False) as lines:
        bus.publish(ended(0))
        assert entered.wait(10)
        for unit in range(1, 11):
            bus.publish(ended(unit))
        assert lines.lost == 5
        assert not lines.flush(timeout=0)
        gate.set()
        assert lines.flush()
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("unit", line.get("lines")) for line in written] == [0, 5, 1, 2, 3, 4, 5]


def test_a_stream_of_few_characters() -> None:
    """A stream that cannot encode a character gets its escape, not an error."""
    raw, bus = io.BytesIO(), EventBus()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with logs.attach(bus, stream=stream, format="console", stdlib=False):
        bus.publish(Said(text="Заметка"))
    assert rb"text=\u0417\u0430\u043c" in raw.getvalue()


def test_lines_after_the_end() -> None:
    """Closing twice is fine, and a line that comes to the writer after that is written at once."""
    output = Output()
    output.lines.close()
    output.lines.close()
    assert output.publish(ended()) == ""
    assert output.lines.writer is not None
    output.lines.writer.write("straggler")
    assert output.text == "straggler\n"


def test_lines_of_a_program_that_just_ends(tmp_path: Path) -> None:
    """A program that ends without closing anything, and a process it forks, lose no line."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from lifecycle.bus import EventBus\n"
        "from lifecycle.events import AppStopping\n"
        "from observability import logs\n"
        "bus = EventBus()\n"
        "lines = logs.attach(bus)\n"
        "bus.run = 1\n"
        "bus.publish(AppStopping())\n"
        "lines.flush()\n"
        "if os.fork() == 0:\n"
        "    bus.run = 2\n"
        "    bus.publish(AppStopping())\n"
        "    lines.flush()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "for bus.run in range(3, 103):\n"
        "    bus.publish(AppStopping())\n"
    )
    # Python 3.12 and later warn of any fork beside a thread.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert [json.loads(line)["run"] for line in done.stderr.splitlines()] == list(range(1, 103))
