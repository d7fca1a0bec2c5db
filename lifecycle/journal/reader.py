"""Reads a SQLite journal, also while a process writes it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lifecycle.closing import Closing
from lifecycle.errors import JournalCorruptError, JournalError
from lifecycle.events import AppCrashed
from lifecycle.journal.file import (
    BUSY,
    Run,
    code_of,
    decode_event,
    lock_path,
    naming,
    next_checksum,
)
from lifecycle.journal.port import JournalEntry, crash_report


class JournalReader(Closing):
    """Reads a journal, also while a process writes it; a context manager.

    Args:
        path: The journal's file.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise JournalError(f"journal {self.path}: there is no such file")
        with naming(self.path, "open it"):
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        # Bytes that are no text any more must reach the checksum, not end in another error.
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")

    def runs(self) -> list[Run]:
        """Return every run, the oldest first.

        Raises:
            JournalCorruptError: A run is missing.
            JournalError: They cannot be read.
        """
        if self._is_empty():
            return []
        rows = self._fetch("SELECT run, pid, started_at, ended_at FROM runs ORDER BY run")
        # SQLite itself remembers the last number it gave: the oldest may go, but no others.
        given = self._fetch("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        last = given[0][0] if given else 0
        if [row[0] for row in rows] != list(range(last - len(rows) + 1, last + 1)) or (
            last and not rows
        ):
            raise JournalCorruptError(f"journal {self.path}: a run is missing of the last {last}")
        return [
            Run(run=run, pid=pid, started_at=started_at, ended_at=ended_at)
            for run, pid, started_at, ended_at in rows
        ]

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Yield the history in order; what was changed since it was written is refused.

        Args:
            run: The run to read; None reads all of them.

        Raises:
            JournalCorruptError: An event was changed or is missing.
            JournalError: They cannot be read.
        """
        for one in [run] if run is not None else [known.run for known in self.runs()]:
            yield from self._entries(one)

    def crash(self) -> AppCrashed | None:
        """Return where the last run stopped when it has no end: it runs still, or died.

        Raises:
            JournalError: That run cannot be read.
        """
        runs = self.runs()
        if not runs:
            return None
        entries = self._entries(runs[-1].run)
        if runs[-1].ended_at is not None:
            return None
        return crash_report(runs[-1].run, entries[-1] if entries else None)

    def is_live(self) -> bool:
        """Return whether a process writes this journal now; one whose lock is damaged has none."""
        lock = lock_path(self.path)
        if not lock.is_file():
            return False
        uri = f"{lock.absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.Error as error:
            return code_of(error) in BUSY
        return False

    def version(self) -> int:
        """Return a number that is another one as soon as somebody has written the journal.

        Raises:
            JournalError: It cannot be read.
        """
        return int(self._fetch("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _fetch(self, query: str, *values: object) -> list[Any]:
        with naming(self.path, "read it"):
            return self._connection.execute(query, values).fetchall()

    def _is_empty(self) -> bool:
        """Return whether the file was only just made: its tables come all at once."""
        return not self._fetch("SELECT 1 FROM sqlite_master LIMIT 1")

    def _entries(self, run: int) -> list[JournalEntry]:
        """Return the entries of one run, each checked against the one before.

        Raises:
            JournalCorruptError: The run, one of its events or its end was changed or is missing.
            JournalError: They cannot be read.
        """
        if self._is_empty():
            return []
        # The end is read first: a run that ends in between only has more events than we need.
        heads = self._fetch(
            "SELECT run, pid, started_at, ended_at, events, checksum FROM runs WHERE run = ?", run
        )
        rows = self._fetch(
            "SELECT seq, at, topic, payload, checksum FROM events WHERE run = ? ORDER BY seq", run
        )
        if not heads:
            if rows:
                raise JournalCorruptError(f"journal {self.path}: run {run} is missing")
            return []
        *head, ended_at, events, last = heads[0]
        checksum = next_checksum(0, *head)
        entries: list[JournalEntry] = []
        for expected, (seq, at, topic, payload, stored) in enumerate(rows, 1):
            checksum = next_checksum(checksum, seq, at, topic, payload)
            if seq != expected or checksum != stored:
                raise JournalCorruptError(
                    f"journal {self.path}: event {expected} of run {run} was changed or is "
                    f"missing; move the file away to go on with a new one"
                )
            entries.append(JournalEntry(seq=seq, run=run, event=decode_event(topic, payload)))
        if (ended_at, events, last) != (None, None, None) and (
            events != len(rows) or last != next_checksum(checksum, ended_at, events)
        ):
            raise JournalCorruptError(
                f"journal {self.path}: the end of run {run} was changed, or events after "
                f"event {len(rows)} are missing; move the file away to go on with a new one"
            )
        return entries
