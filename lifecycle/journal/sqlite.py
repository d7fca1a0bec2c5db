"""The journal in a SQLite file: it outlives the process, whatever kills it."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import get_ident
from typing import Final

from lifecycle.errors import JournalError, JournalLockedError
from lifecycle.event import Event
from lifecycle.events import AppCrashed
from lifecycle.journal.file import (
    BUSY,
    DAMAGED,
    END,
    INSERT,
    LOCK_TIMEOUT,
    SCHEMA,
    VERSION,
    as_journal_error,
    code_of,
    connect,
    encode_event,
    lock_path,
    naming,
    next_checksum,
)
from lifecycle.journal.port import JournalEntry
from lifecycle.journal.reader import JournalReader
from lifecycle.journal.writer import JournalWriter, Row

#: How a journal that cannot be made where it is, beside config.toml by default, gets another place.
_ELSEWHERE: Final = (
    "; it needs a file in a folder that can be written: "
    '[app] journal = "/var/lib/bot/journal.sqlite3", or "memory" to keep none'
)
#: How a second process or application on one config.toml gets a journal of its own.
_OWN_JOURNAL: Final = (
    "a name, and with it a journal of its own: Application.from_config(…, name='api'), or "
    "APP__NAME=api in its environment"
)
#: The files that journals of this process write, by its number.
_written_here: Final[set[tuple[int, Path]]] = set()
#: Seconds that the end of a run waits for the file.
CLOSE_LIMIT: Final = 2.0


class SqliteJournal:
    """A journal in a SQLite file (WAL), which keeps every run.

    What is in the file survives the death of the process by any means. SQLite syncs at checkpoints
    only (`synchronous = NORMAL`): a power cut may take the last events, never ones in the middle.
    An event is in the file when `append` returns, unless the file is locked by a stranger or does
    not answer: after 0.03 s the event stands in line, with all that come after it, and the file
    gets them in order as soon as it takes them. A process that dies before has a history that ends
    earlier, without a hole.

    Each event carries a checksum over itself and all before it in its run. The file is readable
    by its owner only. One process writes at a time: it holds a lock on `<path>-lock`, which the
    operating system takes away when the process is gone; readers need no lock.

    Args:
        path: The file; made when it is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run = 0
        self._seq = 0
        self._checksum = 0
        self._lock: sqlite3.Connection | None = None
        self._writer: JournalWriter | None = None
        self._thread = 0

    @staticmethod
    def read(path: str | os.PathLike[str]) -> JournalReader:
        """Return a reader of the journal at *path*, for tools.

        Raises:
            JournalError: There is no journal, or it cannot be read.
        """
        return JournalReader(path)

    def open(self) -> AppCrashed | None:
        """Begin a new run; see `Journal.open`.

        Raises:
            JournalLockedError: Another process, or another journal of this one, writes the file.
            JournalCorruptError: The last run was changed since it was written.
            JournalError: A run is open already, or the file cannot be used.
        """
        if self._writer is not None:
            raise JournalError(f"journal {self.path} is open already")
        with naming(self.path, "open it", _ELSEWHERE), ExitStack() as held:
            lock = held.enter_context(closing(self._take_lock()))
            connection = held.enter_context(closing(connect(self.path)))
            self._prepare(connection)
            with JournalReader(self.path) as reader:
                crash = reader.crash()
            self._begin(connection)
            self._writer = JournalWriter(self.path, connection)
            self._lock, self._thread = lock, get_ident()
            held.pop_all()
        _written_here.add(self._key())
        return crash

    def append(self, event: Event) -> JournalEntry:
        """Keep *event*; see `Journal.append`.

        Raises:
            JournalError: The journal is not open, or was opened in another thread, or the event
                cannot be handed to the thread that writes.
        """  # noqa: DOC501 -- `as_journal_error` is a function, which returns a JournalError
        if self._writer is None:
            raise JournalError(f"{event.topic} cannot be kept: journal {self.path} is not open")
        if get_ident() != self._thread:
            raise JournalError(f"{event.topic} cannot be kept: another thread than the journal's")
        entry = JournalEntry(seq=self._seq + 1, run=self.run, event=event)
        row = (entry.seq, float(event.at), event.topic, encode_event(event))
        checksum = next_checksum(self._checksum, *row)
        try:
            self._writer.write(Row(INSERT, (self.run, *row, checksum), entry))
        except Exception as error:
            raise as_journal_error(self.path, f"keep {event.topic}", error) from error
        self._seq, self._checksum = entry.seq, checksum
        return entry

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Yield the history; see `JournalReader.entries`. What stands in line is a part of it."""
        waiting = [] if self._writer is None else self._writer.waiting()
        last = 0
        if self.path.exists():
            with JournalReader(self.path) as reader:
                for entry in reader.entries(run):
                    last = entry.seq if entry.run == self.run else 0
                    yield entry
        for entry in waiting:
            if entry.seq > last and run in (None, self.run):
                yield entry

    def close(self, *, clean: bool) -> None:
        """End the run; see `Journal.close`. What stands in line is waited for, for up to 2 s.

        Raises:
            JournalError: The file has not taken everything; it is closed nevertheless.
        """  # noqa: DOC501 -- `as_journal_error` is a function, which returns a JournalError
        if self._writer is None:
            return
        writer, self._writer, lock = self._writer, None, self._lock
        self._lock = None
        _written_here.discard(self._key())
        assert lock is not None  # noqa: S101 -- both or none
        end = None
        if clean:
            now = time.time()
            end = Row(
                END, (now, self._seq, next_checksum(self._checksum, now, self._seq), self.run)
            )
        left = 1
        try:
            left = writer.finish(end, CLOSE_LIMIT)
        except RuntimeError as error:  # no thread starts any more
            doing = f"keep the end of run {self.run}"
            raise as_journal_error(self.path, doing, error) from error
        finally:
            hindrance = writer.hindrance
            # A file that takes rows is also closed, however slow its disk is: the next run may
            # begin at once. One that hangs was waited for.
            writer.close(lock.close, LOCK_TIMEOUT if left else CLOSE_LIMIT)
        if left:
            raise JournalError(
                f"journal {self.path} did not take {_rest(left, self.run, ended=clean)} within "
                f"{CLOSE_LIMIT:g} s ({hindrance or 'no word from it'}); the next start will take "
                f"this run for a dead one"
            )

    @property
    def waiting(self) -> int:
        """How many events stand in line for the file."""
        return 0 if self._writer is None else len(self._writer.waiting())

    def __repr__(self) -> str:
        return f"<SqliteJournal {str(self.path)!r} run={self.run} open={self._lock is not None}>"

    def _take_lock(self) -> sqlite3.Connection:
        path = lock_path(self.path)
        lock = connect(path, timeout=LOCK_TIMEOUT)
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is written: no third file
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            lock.close()
            if code_of(error) in DAMAGED:
                raise JournalError(
                    f"journal {self.path}: its lock {path} is none ({error}); when no process "
                    f"writes this journal, remove that file"
                ) from error
            if code_of(error) not in BUSY:
                raise
            raise JournalLockedError(
                f"journal {self.path} is written by {self._holder()}"
            ) from error
        return lock

    def _holder(self) -> str:
        """Say who holds the lock, and what to do."""
        if self._key() in _written_here:
            return f"another application of this process; give one of them {_OWN_JOURNAL}"
        name = "another process"
        with suppress(JournalError, IndexError), JournalReader(self.path) as reader:
            last = reader.runs()[-1]
            # Our own number is that of a process in another container.
            if last.ended_at is None and last.pid != os.getpid():
                name = f"process {last.pid}"
        return f"{name}; stop that process, or give this one {_OWN_JOURNAL}"

    def _key(self) -> tuple[int, Path]:
        return os.getpid(), self.path.resolve()  # a forked process writes nothing of these

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > VERSION or (version == 0 and tables):
            whose = "a newer version of this program" if version else "something else"
            raise JournalError(
                f"{self.path} was made by {whose}; give the journal another file: [app] journal"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")

    def _begin(self, connection: sqlite3.Connection) -> None:
        head = (os.getpid(), time.time())
        cursor = connection.execute("INSERT INTO runs (pid, started_at) VALUES (?, ?)", head)
        self.run = cursor.lastrowid or 0
        self._seq, self._checksum = 0, next_checksum(0, self.run, *head)


def _rest(left: int, run: int, *, ended: bool) -> str:
    """Say what *left* rows are, the last in line: events of *run*, and its end when it has one."""
    events = left - int(ended)
    end = f"the end of run {run}"
    if not events:
        return end
    last = "the last event" if events == 1 else f"the last {events} events"
    return f"{last} and {end}" if ended else f"{last} of run {run}"
