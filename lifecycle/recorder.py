"""Makes a fact of the lifecycle: appended to the journal, applied, published, in this order."""

import logging
import time
from collections.abc import Callable
from typing import Any

from lifecycle.bus import EventBus
from lifecycle.errors import JournalError
from lifecycle.events import AppCrashed, Event, error_text
from lifecycle.journal import Journal

_log = logging.getLogger("lifecycle")


class Recorder:
    """The only way from a decision to a fact.

    Args:
        journal: Where facts are appended.
        bus: Where they are published then.
    """

    def __init__(self, journal: Journal, bus: EventBus) -> None:
        self.journal = journal
        self.bus = bus
        self.is_open = False
        #: What the journal could not take any more in this run; applied, but never published.
        self.unrecorded: list[Event] = []
        self._broken: Exception | None = None
        self._reported = False
        self._writes = 0
        self._write_time = 0.0

    def open(self) -> None:
        """Begin a run of the journal; report the last one when its process died.

        Raises:
            JournalError: The journal cannot be opened.
        """
        crash: AppCrashed | None = self.journal.open()
        self.is_open = True
        self.bus.run = self.journal.run
        self.unrecorded.clear()
        self._broken, self._reported = None, False
        if crash is not None:
            self.record(crash)

    def close(self) -> None:
        """End the run of the journal.

        Raises:
            JournalError: Its end cannot be written.
        """
        if self.is_open:
            self.is_open = False
            self.journal.close(clean=self._broken is None)

    def record(
        self, event: Event, apply: Callable[[Any], None] | None = None, *, must: bool = True
    ) -> None:
        """Append *event* to the journal, apply it, publish it.

        Args:
            event: The fact.
            apply: Called with it when it is in the journal.
            must: False while stopping: giving back what is held goes on without the journal.

        Raises:
            JournalError: The journal does not take it; nothing was applied.
        """
        if must and self._broken is not None:
            raise JournalError(
                f"the journal failed earlier in this run ({error_text(self._broken)}); "
                f"unload, then start again"
            )
        published = self._broken is None and self._append(event, must=must)
        if not published:
            # A hole in the history: what came after it would be illegal to a reader.
            self.unrecorded.append(event)
            _log.warning("not in the journal: %s", event.as_dict())
        if apply is not None:
            apply(event)
        if published:
            self.bus.publish(event)

    def _append(self, event: Event, *, must: bool) -> bool:
        begun = time.perf_counter()
        try:
            self.journal.append(event)
        except Exception as error:
            if must:
                raise
            self._broken = error
            return False
        finally:
            self._writes += 1
            self._write_time += time.perf_counter() - begun
        return True

    def levels(self) -> dict[str, float]:
        """Return how many events were written to the journal, and the seconds that took."""
        return {"writes_total": self._writes, "write_seconds_total": self._write_time}

    def take_error(self) -> Exception | None:
        """Return what broke the journal in this run, once."""
        if self._reported:
            return None
        self._reported = self._broken is not None
        return self._broken
