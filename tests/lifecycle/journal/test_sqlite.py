"""What only a journal on disk can promise: it outlives kill -9, and notices what was changed."""

import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from lifecycle.errors import JournalCorruptError, JournalError, JournalLockedError
from lifecycle.event import EVENT_TYPES, Event
from lifecycle.events import PluginDegraded, PluginLoaded
from lifecycle.journal import JournalEntry, SqliteJournal, UnknownEvent

# Appends events as fast as it can, and acknowledges each.
WRITER = """
import sys
from lifecycle.events import PluginLoaded
from lifecycle.journal import SqliteJournal

journal = SqliteJournal(sys.argv[1])
print("crash", journal.open(), flush=True)
number = 0
while True:
    number += 1
    journal.append(PluginLoaded(plugin=f"p{number}", at=1.0 + number, duration=number / 10))
    print(number, flush=True)
    if number == int(sys.argv[2]):
        sys.stdin.read()
"""

# Fills the disk, gets some space again, and goes on.
FULL = """
import os, resource, sys
from lifecycle.errors import JournalError
from lifecycle.events import PluginLoaded
from lifecycle.journal import SqliteJournal

journal = SqliteJournal(sys.argv[1])
journal.open()
def append(number):
    return journal.append(PluginLoaded(plugin=f"p{number}", duration=number)).seq
append(1)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
size = os.path.getsize(sys.argv[1] + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, unlimited[1]))
kept = 1
try:
    while True:
        kept = append(kept + 1)
except JournalError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert append(kept + 1) == kept + 1
journal.close(clean=True)
print(kept + 1)
"""


class Writer:
    """A process that writes a journal."""

    def __init__(self, path: Path, stop_after: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(stop_after)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.opened = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for(self, number: int) -> None:
        """Return when event *number* is acknowledged."""
        while int(self._line()) < number:
            pass

    def kill(self) -> int:
        """Kill it, and return the number of the last event that it acknowledged."""
        self.process.kill()
        assert self.process.stdout is not None
        rest = self.process.stdout.read()  # communicate() would pass by what is buffered here
        self.process.communicate()
        return int((rest.split("\n")[:-1] or ["0"])[-1])


@contextmanager
def writer(path: Path, stop_after: int = 0) -> Iterator[Writer]:
    """Run a writer; it is dead afterwards."""
    running = Writer(path, stop_after)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a journal may be."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal whose only writer was killed after 6 events; all is still in the WAL."""
    path = tmp_path_factory.mktemp("dead") / "journal.sqlite3"
    with writer(path, stop_after=6) as running:
        running.wait_for(6)
        running.kill()
    return path


def _numbers(entries: list[JournalEntry]) -> list[int]:
    """Return the number in each event of the writer, which says it three times."""
    numbers = []
    for entry in entries:
        number = entry.seq
        wanted = PluginLoaded(plugin=f"p{number}", at=1.0 + number, duration=number / 10)
        assert entry.event == wanted
        numbers.append(number)
    return numbers


def _write(path: Path, count: int = 5) -> list[JournalEntry]:
    """Write one whole run of *count* events."""
    journal = SqliteJournal(path)
    journal.open()
    entries = [journal.append(PluginLoaded(plugin=f"p{n}", duration=n)) for n in range(count)]
    journal.close(clean=True)
    return entries


def test_acknowledged_events_survive_kill_9(path: Path) -> None:
    """After each kill all acknowledged events are there without a gap, and the crash is named."""
    written = 0
    for run, wait in enumerate((1, 7, 40), start=1):
        with writer(path) as running:
            expected = "None" if run == 1 else f"run={run - 1}, last_topic='plugin.loaded'"
            assert expected in running.opened
            assert run == 1 or f"last_seq={written}" in running.opened
            running.wait_for(wait)
            acknowledged = max(wait, running.kill())
        with SqliteJournal.read(path) as reader:
            numbers = _numbers(list(reader.entries(run)))
        written = len(numbers)
        assert numbers == list(range(1, written + 1))
        assert acknowledged <= written <= acknowledged + 1
    journal = SqliteJournal(path)
    crash = journal.open()
    journal.close(clean=True)
    assert crash is not None
    assert (crash.run, crash.last_topic, crash.last_seq) == (3, "plugin.loaded", written)
    assert (crash.last_plugin, crash.last_at) == (f"p{written}", 1.0 + written)


def test_one_process_writes_and_everybody_reads(path: Path) -> None:
    """A second writer is told who the first is and what to do; readers are not disturbed."""
    journal = SqliteJournal(path)
    with writer(path, stop_after=3) as running:
        running.wait_for(3)
        with pytest.raises(JournalLockedError) as caught:
            journal.open()
        message = str(caught.value)
        assert str(path) in message
        assert f"process {running.process.pid};" in message
        assert "stop that process, or give this one a name, and with it a journal" in message
        with SqliteJournal.read(path) as reader:
            assert reader.is_live()
            assert _numbers(list(reader.entries())) == [1, 2, 3]
            (run,) = reader.runs()
            assert (run.run, run.pid, run.ended_at) == (1, running.process.pid, None)
        running.kill()
    with SqliteJournal.read(path) as reader:
        assert not reader.is_live()
    assert journal.open() is not None
    journal.close(clean=True)


def test_one_journal_of_a_process_writes(path: Path) -> None:
    """The lock also holds within one process, until the journal is closed."""
    first, second = SqliteJournal(path), SqliteJournal(path)
    first.open()
    for _ in range(2):
        with pytest.raises(JournalLockedError) as caught:
            second.open()
        message = str(caught.value)
        assert "by another application of this process; give one of them a name, and" in message
        assert str(os.getpid()) not in message.replace(str(path), "")
    first.append(PluginLoaded(plugin="a", duration=1))
    first.close(clean=True)
    assert second.open() is None
    assert second.run == 2
    second.close(clean=True)


def test_a_process_of_another_container_is_not_taken_for_this_one(path: Path) -> None:
    """A lock of somebody who has our number, but is not us, is that of another process."""
    with writer(path, stop_after=1) as running:
        running.wait_for(1)
        with (
            pytest.MonkeyPatch.context() as patched,
            pytest.raises(JournalLockedError, match="is written by another process; stop"),
        ):
            patched.setattr(os, "getpid", lambda: running.process.pid)
            SqliteJournal(path).open()


def test_a_lock_that_is_none_is_named(path: Path) -> None:
    """Rubbish in the lock's file: the history is readable, and a new run says which file it is."""
    _write(path)
    lock = path.with_name(f"{path.name}-lock")
    lock.write_text("This is no lock. " * 100)
    with SqliteJournal.read(path) as reader:
        assert not reader.is_live()
        assert len(list(reader.entries())) == 5
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(JournalError, match=re.escape(f"its lock {lock} is none")) as caught:
        SqliteJournal(path).open()
    assert not isinstance(caught.value, JournalCorruptError)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    lock.unlink()
    journal = SqliteJournal(path)
    assert journal.open() is None
    journal.close(clean=True)


def test_files_are_for_their_owner_only(path: Path) -> None:
    """Every file of an open journal has mode 0600."""
    journal = SqliteJournal(path)
    journal.open()
    journal.append(PluginLoaded(plugin="a", duration=1))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    journal.close(clean=True)
    assert modes == {f"{path.name}{end}": 0o600 for end in ("", "-wal", "-shm", "-lock")}


def test_torn_tail_loses_the_tail_and_nothing_else(dead: Path, tmp_path: Path) -> None:
    """Wherever the WAL of the last records is cut, what is left is a prefix, and goes on."""
    wal = dead.with_name(f"{dead.name}-wal").read_bytes()
    frame = int.from_bytes(wal[8:12], "big") + 24  # a page and its header
    begin = len(wal) - 3 * frame
    cuts = sorted(
        {*range(begin, len(wal) + 1, 193)}
        | {begin + k * frame + d for k in range(4) for d in (-1, 0, 1, 8, 23, 24, 25)}
    )
    lengths = set()
    for cut in cuts:
        path = tmp_path / f"cut{cut}.sqlite3"
        shutil.copy(dead, path)
        path.with_name(f"{path.name}-wal").write_bytes(wal[:cut])
        journal = SqliteJournal(path)
        crash = journal.open()
        numbers = _numbers(list(journal.entries(1)))
        assert numbers == list(range(1, len(numbers) + 1))
        assert crash is not None
        assert crash.last_seq == len(numbers)
        journal.append(PluginLoaded(plugin="after", duration=1))
        assert len(list(journal.entries(2))) == 1
        journal.close(clean=True)
        lengths.add(len(numbers))
    assert lengths == {2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET payload = replace(payload, 'p2', 'p9') WHERE seq = 3",
        "UPDATE events SET topic = 'plugin.failed' WHERE seq = 3",
        "UPDATE events SET at = at + 0.001 WHERE seq = 3",
        "UPDATE events SET checksum = checksum + 1 WHERE seq = 3",
        "UPDATE events SET payload = x'ff00' WHERE seq = 3",
        "UPDATE events SET seq = 9 WHERE seq = 3",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM events WHERE seq = 5",
        "DELETE FROM events",
        "UPDATE runs SET pid = pid + 1",
        "UPDATE runs SET started_at = started_at + 1",
        "UPDATE runs SET ended_at = ended_at + 1",
        "UPDATE runs SET ended_at = NULL",
        "UPDATE runs SET run = 2",
        "DELETE FROM runs",
        "UPDATE events SET run = 2",
    ],
)
def test_changed_history_is_refused(path: Path, change: str) -> None:
    """Whatever is changed in the last run: neither a reader nor the next run accepts it."""
    _write(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(change)
    journal = SqliteJournal(path)
    with pytest.raises(JournalCorruptError, match=r"missing|changed"):
        list(journal.entries())
    with pytest.raises(JournalCorruptError, match=r"journal\.sqlite3"):
        journal.open()
    with pytest.raises(JournalCorruptError):  # the lock was given back
        journal.open()


def test_corruption_names_run_and_event(path: Path) -> None:
    """The message says which event of which run is wrong, and the way out."""
    _write(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET at = 0 WHERE seq = 3")
    with pytest.raises(JournalCorruptError) as caught:
        list(SqliteJournal(path).entries())
    assert "event 3 of run 1 was changed" in str(caught.value)
    assert "move the file away" in str(caught.value)


def test_flipped_bits_never_give_a_wrong_history(path: Path, tmp_path: Path) -> None:
    """With any single bit of the file flipped, the history is the true one or refused."""
    truth = _write(path, count=20)
    whole = path.read_bytes()
    chance = random.Random(7)
    seen = 0
    flipped = tmp_path / "flipped.sqlite3"
    for _ in range(300):
        position, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        data = bytearray(whole)
        data[position] ^= bit
        flipped.write_bytes(data)
        try:
            with SqliteJournal.read(flipped) as reader:
                assert list(reader.entries()) == truth, (position, bit)
        except JournalError:
            seen += 1
    assert seen > 30


def test_full_disk_is_one_error(path: Path) -> None:
    """The append that finds no space fails and leaves no trace; with space the next one works."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    message, kept = done.stdout.splitlines()
    assert f"journal {path}: cannot keep plugin.loaded" in message
    entries = list(SqliteJournal(path).entries())
    assert [entry.seq for entry in entries] == list(range(1, int(kept) + 1))
    assert [getattr(entry.event, "duration", None) for entry in entries] == list(
        range(1, int(kept) + 1)
    )


class Renamed(Event):
    topic: ClassVar[str] = "journaltest.renamed"

    old_field: int


class RenamedLater(Event):
    topic: ClassVar[str] = "journaltest.renamed_later"

    new_field: int


@pytest.mark.parametrize("known", [None, RenamedLater])
def test_event_of_another_version_is_readable(
    path: Path, known: type[Event] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown topic, or known one with other fields, is read without its class."""
    journal = SqliteJournal(path)
    journal.open()
    event = journal.append(Renamed(old_field=5)).event
    journal.close(clean=True)
    if known is None:
        monkeypatch.delitem(EVENT_TYPES, Renamed.topic)
    else:
        monkeypatch.setitem(EVENT_TYPES, Renamed.topic, known)
    (entry,) = journal.entries()
    assert isinstance(entry.event, UnknownEvent)
    assert entry.event.topic == "journaltest.renamed"
    assert entry.event.as_dict() == event.as_dict()


def test_text_that_is_no_unicode_is_kept_readable(path: Path) -> None:
    """Half a surrogate pair, as in an undecodable file name, does not keep an event out."""
    journal = SqliteJournal(path)
    journal.open()
    journal.append(PluginDegraded(plugin="db", reason="no file \udc80ä"))
    journal.close(clean=True)
    (entry,) = journal.entries()
    assert isinstance(entry.event, PluginDegraded)
    assert entry.event.reason == "no file ?ä"


def test_what_is_no_journal_is_left_alone(path: Path, tmp_path: Path) -> None:
    """Another database, a newer journal, no database and no folder are refused with the reason."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id INTEGER)")
        with pytest.raises(JournalError, match="made by something else"):
            SqliteJournal(path).open()
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(JournalError, match="newer version"):
            SqliteJournal(path).open()
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    text = tmp_path / "text.sqlite3"
    text.write_text("This is text, and quite a lot of it. " * 100)
    with pytest.raises(JournalCorruptError, match="not a database"):
        SqliteJournal(text).open()
    with pytest.raises(JournalError, match="cannot open it"):
        SqliteJournal(tmp_path / "nowhere" / "j.sqlite3").open()
    with pytest.raises(JournalError, match="no such file"):
        SqliteJournal.read(tmp_path / "nothing.sqlite3")
