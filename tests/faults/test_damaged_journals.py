"""A journal that was cut, zeroed, changed or left in the middle tells no wrong history: J1, J2."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle.errors import JournalError
from lifecycle.events import PluginLoaded
from lifecycle.journal import JournalEntry, SqliteJournal

#: Events of a damaged run, and the last of them whose records are cut.
EVENTS, CUT_EVENTS = 8, 3

Row = Callable[..., None]


class Dead:
    """The files of a journal whose writer died: all of its run is still in the write-ahead log.

    Args:
        folder: Where they are made, and damaged copies of them.
    """

    def __init__(self, folder: Path) -> None:
        original = folder / "journal.sqlite3"
        self._copy = folder / "copy.sqlite3"
        journal = SqliteJournal(original)
        journal.open()
        self.truth = [
            journal.append(PluginLoaded(plugin=f"p{number}", duration=number))
            for number in range(EVENTS)
        ]
        self._main = original.read_bytes()
        self.log = original.with_name(f"{original.name}-wal").read_bytes()
        journal.close(clean=True)
        self.closed = original.read_bytes()

    def damaged(self, main: bytes | None = None, log: bytes = b"") -> SqliteJournal:
        """Return a journal of these files, not opened yet."""
        for end in ("", "-shm", "-lock"):
            self._copy.with_name(self._copy.name + end).unlink(missing_ok=True)
        self._copy.write_bytes(self._main if main is None else main)
        self._copy.with_name(f"{self._copy.name}-wal").write_bytes(log)
        return SqliteJournal(self._copy)


@pytest.fixture
def dead(tmp_path: Path) -> Dead:
    """A dead journal."""
    return Dead(tmp_path)


def flipped(data: bytes) -> bytes:
    """Return *data* with one bit changed somewhere."""
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def survivors(journal: SqliteJournal) -> list[JournalEntry]:
    """Open the journal as the next run does, append to it; return what is left of the dead run."""
    crash = journal.open()
    entries = list(journal.entries(1))
    assert crash is not None
    assert crash.last_seq == len(entries)
    journal.append(PluginLoaded(plugin="after", duration=0))
    assert len(list(journal.entries(2))) == 1
    journal.close(clean=True)
    return entries


@pytest.mark.timeout(300)
def test_a_damaged_tail_costs_the_tail(dead: Dead, row: Row, *, full: bool) -> None:
    """Cut or zeroed in its last records, a journal keeps what is before, and goes on. J1."""
    frame = int.from_bytes(dead.log[8:12], "big") + 24  # a page and its header
    first = len(dead.log) - CUT_EVENTS * frame
    lengths = set()
    cuts = range(first, len(dead.log), 1 if full else 499)
    for cut in cuts:
        zeros = bytes(len(dead.log) - cut) if cut % 2 else b""
        entries = survivors(dead.damaged(log=dead.log[:cut] + zeros))
        assert entries == dead.truth[: len(entries)]
        lengths.add(len(entries))
    assert min(lengths) >= EVENTS - CUT_EVENTS - 1
    row(
        "J1",
        load=f"log cut or zeroed at {len(cuts)} places of the last {CUT_EVENTS} records",
        result=f"a true prefix each time ({min(lengths)} to {max(lengths)} of {EVENTS} events), "
        "next append readable",
    )


@pytest.mark.parametrize("where", ["file", "log"])
def test_a_flipped_bit_is_seen_or_harmless(dead: Dead, row: Row, where: str, *, full: bool) -> None:
    """One changed bit leads to the true history, a true prefix of it, or a refusal. J1."""
    flips, refused, shortened = (4000 if full else 100), 0, 0
    for _ in range(flips):
        if where == "file":
            journal = dead.damaged(main=flipped(dead.closed))
        else:
            journal = dead.damaged(log=flipped(dead.log))
        try:
            entries = list(journal.entries(1))
        except JournalError:
            refused += 1
            continue
        assert entries == dead.truth[: len(entries)]
        assert where == "log" or len(entries) == EVENTS
        shortened += len(entries) < EVENTS
    assert refused + shortened
    row(
        "J1",
        load=f"{flips} flipped bits in the {where}",
        result=f"0 wrong histories; {refused} refused, {shortened} cut to a true prefix, "
        "the rest harmless",
    )


def test_a_killed_writer_loses_nothing(tmp_path: Path, row: Row, *, full: bool) -> None:
    """After SIGKILL each event that the journal took is there, without a gap. J2."""
    kills, taken, written = (200 if full else 10), 0, 0
    path = tmp_path / "journal.sqlite3"
    script = Path(__file__).parent / "writing_journal.py"
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in range(1, kills + 1):
            program.stdin.write(f"{path}\n")
            program.stdin.flush()
            pid, run = int(program.stdout.readline()), int(program.stdout.readline())
            time.sleep(random.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            said = list(iter(program.stdout.readline, "dead\n"))
            with SqliteJournal.read(path) as reader:
                numbers = [entry.seq for entry in reader.entries(run)]
            assert run == number
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(said) <= len(numbers) <= len(said) + 1
            taken, written = taken + len(said), written + len(numbers)
        program.stdin.close()
    row(
        "J2",
        load=f"SIGKILL of the writer {kills} ×",
        result=f"{taken} events acknowledged, {written} there, 0 gaps",
    )
