"""The journal in memory: it lives and dies with the process."""

from collections.abc import Iterator

from lifecycle.errors import JournalError
from lifecycle.event import Event
from lifecycle.events import AppCrashed
from lifecycle.journal.port import JournalEntry, crash_report


class MemoryJournal:
    """A journal that lives and dies with the process."""

    def __init__(self) -> None:
        self.run = 0
        self._runs: list[list[JournalEntry]] = []
        self._is_open = False
        self._ended = True

    def open(self) -> AppCrashed | None:
        """Begin a new run; see `Journal.open`.

        Raises:
            JournalError: It is open already.
        """
        if self._is_open:
            raise JournalError("this journal is open already")
        crash = None
        if not self._ended:
            crash = crash_report(self.run, self._runs[-1][-1] if self._runs[-1] else None)
        self.run += 1
        self._runs.append([])
        self._is_open, self._ended = True, False
        return crash

    def append(self, event: Event) -> JournalEntry:
        """Keep *event*; see `Journal.append`.

        Raises:
            JournalError: It is not open.
        """
        if not self._is_open:
            raise JournalError(f"{event.topic} cannot be kept: the journal is not open")
        entries = self._runs[-1]
        entry = JournalEntry(seq=len(entries) + 1, run=self.run, event=event)
        entries.append(entry)
        return entry

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Return the history; see `Journal.entries`."""
        if run is None:
            return (entry for entries in list(self._runs) for entry in list(entries))
        return iter(list(self._runs[run - 1])) if 0 < run <= self.run else iter(())

    def close(self, *, clean: bool) -> None:
        """End the run; see `Journal.close`."""
        if self._is_open:
            self._is_open, self._ended = False, clean

    def __repr__(self) -> str:
        return f"<MemoryJournal run={self.run} entries={sum(map(len, self._runs))}>"
