"""A journal whose file does not answer: nobody waits, and nothing is lost or out of order."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.stranger import stranger

from lifecycle import Application, Plugin, PluginContext, SqliteJournal, State, replay
from lifecycle.errors import JournalError
from lifecycle.event import Event
from lifecycle.events import PluginLoading
from lifecycle.journal import JournalReader
from lifecycle.journal.writer import PATIENCE


class Part(Plugin):
    """A plugin that has hooks."""

    name = "part"

    async def load(self, context: PluginContext) -> None:
        """Load."""

    async def start(self, context: PluginContext) -> None:
        """Start."""


@contextmanager
def never_blocked(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See to it that no step of the loop takes long."""
    loop = asyncio.get_running_loop()
    before = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0.3  # of a second; the machine may be loaded
    try:
        with caplog.at_level(logging.WARNING, "asyncio"):
            yield
    finally:
        loop.set_debug(before[0])
        loop.slow_callback_duration = before[1]
    assert [each for each in caplog.messages if "took" in each] == []


async def caught_up(journal: SqliteJournal) -> None:
    """Return when everything is in the file."""
    while journal.waiting:  # noqa: ASYNC110 -- a thread writes, and tells nobody
        await asyncio.sleep(0)  # the loop stays free


def topics(path: Path, run: int | None = None) -> list[str]:
    """Return the topics in the file; it is read with all checks."""
    with JournalReader(path) as reader:
        return [entry.event.topic for entry in reader.entries(run)]


async def test_a_busy_file_holds_nobody_up_and_catches_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Several times a stranger holds the lock: steps go on, and all are in the file in order."""
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    app = Application([Part()], journal=journal)
    seen: list[Event] = []
    app.bus.subscribe(">", seen.append)
    await app.start()
    with stranger(journal.path) as other, never_blocked(caplog):
        for _ in range(3):
            with other.writing():
                begun = time.perf_counter()
                await app.restart()
                assert time.perf_counter() - begun < 0.9  # it would be 1 s for each event
                known = len(topics(journal.path))
                live = [entry.event for entry in journal.entries()]
                assert live == seen
                assert len(live) - known == journal.waiting > 3
                assert replay(journal.entries()) == {"part": State.STARTED}
            await caught_up(journal)
            assert topics(journal.path) == [event.topic for event in seen]
        await app.unload()
    assert topics(journal.path) == [event.topic for event in seen]
    assert journal.open() is None
    journal.close(clean=True)
    messages = [each for each in caplog.messages if "answer" in each]
    assert len(messages) == 6
    assert "SQLITE_BUSY" in messages[0]
    assert messages[1].endswith("answers again and has caught up")


async def test_a_stop_waits_for_a_busy_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that ends while the file is locked has its end in the file once that is free."""
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    app = Application([Part()], journal=journal)
    await app.start()
    with stranger(journal.path) as other, never_blocked(caplog):
        with other.writing():
            unloaded = asyncio.Event()
            app.bus.subscribe("plugin.unloaded", lambda _: unloaded.set())
            stop = asyncio.create_task(app.unload())
            await unloaded.wait()
        await stop
    assert topics(journal.path)[-1] == "plugin.unloaded"
    assert journal.open() is None
    journal.close(clean=True)


async def test_a_stop_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that stays locked lets the stop end, which says what is missing; the rest is whole."""
    monkeypatch.setattr("lifecycle.journal.sqlite.CLOSE_LIMIT", 0.2)
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    app = Application([Part()], journal=journal)
    await app.start()
    kept = topics(journal.path)
    with stranger(journal.path) as other, other.writing(), never_blocked(caplog):
        with pytest.raises(ExceptionGroup) as caught:
            await app.unload()
        (error,) = caught.value.exceptions
        assert "did not take the last 6 events and the end of run 1 within 0.2 s" in str(error)
        assert "SQLITE_BUSY" in str(error)
    assert topics(journal.path) == kept
    crash = journal.open()
    assert crash is not None
    assert crash.last_topic == kept[-1]
    journal.close(clean=True)


def test_a_process_that_dies_while_the_file_is_busy(tmp_path: Path) -> None:
    """What stood in line is lost, and the history before it is whole."""
    program = """
import os, sys
from lifecycle import SqliteJournal
from lifecycle.events import PluginLoading
journal = SqliteJournal(sys.argv[1])
journal.open()
for number in range(3):
    journal.append(PluginLoading(plugin=f"kept{number}"))
print(flush=True)
sys.stdin.readline()
for number in range(3):
    journal.append(PluginLoading(plugin=f"lost{number}"))
print(journal.waiting, flush=True)
os.kill(os.getpid(), 9)
"""
    path = tmp_path / "j.sqlite3"
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        with stranger(path) as other, other.writing():
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "3\n"
            process.wait()
    journal = SqliteJournal(path)
    crash = journal.open()
    assert crash is not None
    assert (crash.last_plugin, crash.last_seq) == ("kept2", 3)
    journal.close(clean=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """Return an open journal."""
    opened = SqliteJournal(tmp_path / "j.sqlite3")
    opened.open()
    yield opened
    opened.close(clean=True)


def test_one_wait_for_many_events(journal: SqliteJournal) -> None:
    """Only the first event waits for a file that is locked; those behind it do not."""
    with stranger(journal.path) as other, other.writing():
        begun = time.perf_counter()
        for number in range(1000):
            journal.append(PluginLoading(plugin=f"p{number}"))
        assert time.perf_counter() - begun < 1000 * PATIENCE / 10
        assert journal.waiting == 1000
    journal.close(clean=True)
    assert len(topics(journal.path)) == 1000


def test_a_refusal_is_told_when_nothing_is_before_it(journal: SqliteJournal) -> None:
    """An event that the file itself refuses is refused at once, and leaves no gap."""
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'no'); END")
    with pytest.raises(JournalError, match=r"cannot keep plugin\.loading: no"):
        journal.append(PluginLoading(plugin="lost"))
    other.execute("DROP TRIGGER full")
    other.close()
    assert journal.append(PluginLoading(plugin="kept")).seq == 1
    assert journal.waiting == 0


def test_a_refusal_in_line_is_tried_again(journal: SqliteJournal) -> None:
    """What was accepted while the file was locked is kept, although the disk is full meanwhile."""
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'no'); END")
    other.execute("BEGIN IMMEDIATE")
    for number in range(3):
        journal.append(PluginLoading(plugin=f"p{number}"))
    other.execute("COMMIT")
    assert journal.waiting == 3
    journal.append(PluginLoading(plugin="p3"))
    other.execute("BEGIN IMMEDIATE")
    other.execute("DROP TRIGGER full")
    other.execute("COMMIT")
    other.close()
    journal.close(clean=True)
    assert len(topics(journal.path)) == 4


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread start, as when the process has all that it may have."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_an_event_for_which_no_thread_starts_is_refused(journal: SqliteJournal) -> None:
    """It is not in line, and neither in the way of the next one nor of the end."""
    with pytest.MonkeyPatch.context() as patched:
        no_thread(patched)
        with pytest.raises(JournalError, match=r"cannot keep plugin\.loading: can't start"):
            journal.append(PluginLoading(plugin="lost"))
    assert journal.waiting == 0
    assert journal.append(PluginLoading(plugin="kept")).seq == 1
    journal.close(clean=True)
    assert len(topics(journal.path)) == 1


def test_a_run_for_whose_end_no_thread_starts_is_let_go(journal: SqliteJournal) -> None:
    """Its end is not kept, and that is said; file and lock are free for the next run."""
    with pytest.MonkeyPatch.context() as patched:
        no_thread(patched)
        with pytest.raises(JournalError, match="cannot keep the end of run 1: can't start"):
            journal.close(clean=True)
    crash = journal.open()
    assert crash is not None
    assert crash.run == 1


async def test_a_stop_for_which_no_thread_starts_can_be_repeated(tmp_path: Path) -> None:
    """A journal whose end no thread could write stays open, and the next stop ends its run."""
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    app = Application([Part()], journal=journal)
    await app.start()

    def refuse(*_args: object, **_kwargs: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lifecycle.threads.Thread", refuse)
        with pytest.raises(ExceptionGroup) as caught:
            await app.unload()
    assert "can't start new thread" in str(caught.value.exceptions)
    await app.unload()
    assert journal.open() is None
    journal.close(clean=True)


@pytest.mark.parametrize(
    ("events", "clean", "lost"),
    [
        (0, True, "did not take the end of run 1 within"),
        (1, True, "did not take the last event and the end of run 1 within"),
        (2, False, "did not take the last 2 events of run 1 within"),
    ],
)
def test_the_error_of_a_stop_counts_what_is_not_kept(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch, events: int, clean: bool, lost: str
) -> None:
    """What the file did not take is said as it is: events, the end of the run, or both."""
    monkeypatch.setattr("lifecycle.journal.sqlite.CLOSE_LIMIT", 0.01)
    with stranger(journal.path) as other, other.writing():
        for _ in range(events):
            journal.append(PluginLoading(plugin="lost"))
        with pytest.raises(JournalError, match=lost):
            journal.close(clean=clean)


class Reader(logging.Handler):
    """Asks the journal, in another thread, while a line is logged."""

    def __init__(self, journal: SqliteJournal) -> None:
        super().__init__()
        self.journal = journal
        self.seen: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Ask."""
        asking = threading.Thread(target=self._ask, name=record.name)
        asking.start()
        asking.join(5)

    def _ask(self) -> None:
        self.seen.append(self.journal.waiting)


def test_a_warning_holds_nobody_up(journal: SqliteJournal) -> None:
    """While a log line about the journal is on its way, others reach the journal."""
    reader = Reader(journal)
    log = logging.getLogger("lifecycle")
    log.addHandler(reader)
    try:
        with stranger(journal.path) as other, other.writing():
            journal.append(PluginLoading(plugin="late"))
            assert reader.seen == [1]
    finally:
        log.removeHandler(reader)


def test_another_thread_may_not_append(journal: SqliteJournal) -> None:
    """Events have one order because one thread makes them; another one is refused."""
    import concurrent.futures  # noqa: PLC0415 -- only here

    with concurrent.futures.ThreadPoolExecutor() as pool:
        failure = pool.submit(journal.append, PluginLoading(plugin="p")).exception()
    assert isinstance(failure, JournalError)
    assert list(journal.entries()) == []


async def test_what_was_refused_is_appended_when_the_disk_has_room(tmp_path: Path) -> None:
    """A fact that a full disk refuses is in the journal before the next one, and then published."""
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    app = Application([Part()], journal=journal)
    seen: list[str] = []
    app.bus.subscribe("plugin.*", lambda event: seen.append(event.topic))
    await app.start()
    context = app.plugins["part"].context
    assert context is not None
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'no'); END")
    context.degraded("lost")
    assert app.plugins["part"].is_degraded
    assert "plugin.degraded" not in [*seen, *topics(journal.path)]
    other.execute("DROP TRIGGER full")
    other.close()
    await app.unload()
    assert journal.open() is None
    assert seen[4:6] == ["plugin.degraded", "plugin.stopping"]
    assert [each for each in topics(journal.path) if each.startswith("plugin.")] == seen
    journal.close(clean=True)


class SlowToClose(sqlite3.Connection):
    """A connection to a file on a slow disk: closing it writes the log back."""

    def close(self) -> None:
        """Close, late."""
        threading.Event().wait(0.3)
        super().close()


def test_a_run_begins_right_after_the_last_one_however_slow_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal whose file takes rows is closed when `close` returns."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=SlowToClose))
    journal = SqliteJournal(tmp_path / "j.sqlite3")
    journal.open()
    journal.append(PluginLoading(plugin="part"))
    journal.close(clean=True)
    assert journal.open() is None
    journal.close(clean=True)
