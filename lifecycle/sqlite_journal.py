"""The journal in a SQLite file: it outlives the process, whatever kills it."""

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from lifecycle.errors import JournalError, JournalLockedError
from lifecycle.events import AppCrashed, Event
from lifecycle.journal import JournalEntry
from lifecycle.journal_file import (
    BUSY,
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
from lifecycle.journal_reader import JournalReader


class SqliteJournal:
    """A journal in a SQLite file (WAL), which keeps every run.

    What was appended survives the death of the process by any means. SQLite syncs at checkpoints
    only (`synchronous = NORMAL`): a power cut may take the last events, never ones in the middle.
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
        self._connection: sqlite3.Connection | None = None

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
            JournalLockedError: Another process writes this journal.
            JournalCorruptError: The last run was changed since it was written.
            JournalError: A run is open already, or the file cannot be used.
        """
        if self._connection is not None:
            raise JournalError(f"journal {self.path} is open already")
        with naming(self.path, "open it"):
            self._lock = self._take_lock()
            try:
                self._connection = connect(self.path)
                self._prepare(self._connection)
                with JournalReader(self.path) as reader:
                    crash = reader.crash()
                self._begin(self._connection)
            except BaseException:
                self._release()
                raise
        return crash

    def append(self, event: Event) -> JournalEntry:
        """Keep *event*; see `Journal.append`."""
        if self._connection is None:
            raise JournalError(f"{event.topic} cannot be kept: journal {self.path} is not open")
        entry = JournalEntry(seq=self._seq + 1, run=self.run, event=event)
        row = (entry.seq, float(event.at), event.topic, encode_event(event))
        checksum = next_checksum(self._checksum, *row)
        try:
            self._connection.execute(INSERT, (self.run, *row, checksum))
        except sqlite3.Error as error:
            raise as_journal_error(self.path, f"keep {event.topic}", error) from error
        self._seq, self._checksum = entry.seq, checksum
        return entry

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Yield the history; see `JournalReader.entries`."""
        if not self.path.exists():
            return
        with JournalReader(self.path) as reader:
            yield from reader.entries(run)

    def close(self, *, clean: bool) -> None:
        """End the run; see `Journal.close`."""
        if self._connection is None:
            return
        try:
            if clean:
                now = time.time()
                end = (now, self._seq, next_checksum(self._checksum, now, self._seq), self.run)
                with naming(self.path, "keep the end of the run"):
                    self._connection.execute(
                        "UPDATE runs SET ended_at = ?, events = ?, checksum = ? WHERE run = ?", end
                    )
        finally:
            self._release()

    def __repr__(self) -> str:
        return f"<SqliteJournal {str(self.path)!r} run={self.run} open={self._lock is not None}>"

    def _take_lock(self) -> sqlite3.Connection:
        lock = connect(lock_path(self.path), timeout=LOCK_TIMEOUT)
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is written: no third file
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if code_of(error) not in BUSY:
                raise
            raise JournalLockedError(
                f"journal {self.path} is written by {self._writer()}; stop that process, or give "
                f'this one a file of its own: [app] journal = "another.sqlite3"'
            ) from error
        return lock

    def _writer(self) -> str:
        try:
            with JournalReader(self.path) as reader:
                last = reader.runs()[-1]
        except (JournalError, IndexError):
            return "another process"
        return f"process {last.pid}" if last.ended_at is None else "another process"

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

    def _release(self) -> None:
        for connection in (self._connection, self._lock):
            if connection is not None:
                connection.close()
        self._connection = self._lock = None
