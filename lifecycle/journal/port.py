"""What a journal is: the append-only history of facts."""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from lifecycle.event import Event
from lifecycle.events import AppCrashed


class JournalEntry(msgspec.Struct, frozen=True):
    """An event with its place in the history.

    Args:
        seq: Number of the event in its run: 1, 2, 3 … without a gap.
        run: Number of the run: from one start of the application to its end.
        event: The event.
    """

    seq: int
    run: int
    event: Event


class Journal(Protocol):
    """Where the facts of the lifecycle are kept, in order."""

    #: Number of the run that is open, else of the last one; 0 before the first.
    run: int

    def open(self) -> AppCrashed | None:
        """Begin a new run.

        Returns:
            Where the run before died, when it has no end.

        Raises:
            JournalError: A run is open already, here or in another process, or the journal cannot
                be used.
        """
        ...

    def append(self, event: Event) -> JournalEntry:
        """Keep *event*; when this returns, it is in the history, after all that was kept before.

        It must not block. A journal whose medium does not answer may let events stand in line for
        it; those a dying process loses.

        Returns:
            The entry it became.

        Raises:
            JournalError: It is not kept, and the history is as before.
        """
        ...

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Return the history in order; also when no run is open.

        Args:
            run: The run to read; None reads all of them.

        Raises:
            JournalError: The history cannot be read.
        """
        ...

    def close(self, *, clean: bool) -> None:
        """End the run; nothing happens when none is open.

        It may wait for what stands in line, for seconds: the application calls it in a thread.

        Args:
            clean: False leaves the run without an end, as a death of the process does.

        Raises:
            JournalError: The end cannot be kept; the run is closed without one.
        """
        ...


class UnknownEvent(Event, kw_only=True):
    """An event of a topic or shape that this program does not know: another version wrote it.

    Args:
        topic: The topic it was written under.
        fields: Its own fields.
    """

    topic: str  # type: ignore[misc] # mypy: a class variable elsewhere -- here each has its own
    fields: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what `Event.as_dict` of the unknown class would have returned."""
        return {"topic": self.topic, "at": self.at, **self.correlation.as_dict(), **self.fields}


def crash_report(run: int, last: JournalEntry | None) -> AppCrashed:
    """Return what is known about a run without an end.

    Args:
        run: Its number.
        last: Its last entry, when it has one.
    """
    if last is None:
        return AppCrashed(run=run)
    return AppCrashed(
        run=run,
        last_topic=last.event.topic,
        last_plugin=getattr(last.event, "plugin", ""),
        last_seq=last.seq,
        last_at=last.event.at,
    )
