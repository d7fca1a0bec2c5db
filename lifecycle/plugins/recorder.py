"""Makes a fact of the lifecycle: appended to the journal, applied, published, in this order."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lifecycle.bus import EventBus
from lifecycle.error_text import tell_text
from lifecycle.errors import JournalError
from lifecycle.event import Event
from lifecycle.events import AppCrashed
from lifecycle.journal import Journal
from lifecycle.threads import in_thread

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
        #: What the journal refused, in order; applied, and published when it takes it after all.
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

    async def close(self) -> None:
        """End the run of the journal, in a thread: its file may not answer at once.

        Raises:
            JournalError: Its end cannot be written.
            RuntimeError: No thread can be started; the run is open still.
        """
        if self.is_open:
            self._catch_up()
            end = partial(self.journal.close, clean=self._broken is None)
            ended = in_thread(end, "end of the journal")
            self.is_open = False
            await ended

    def record(
        self, event: Event, apply: Callable[[Any], None] | None = None, *, must: bool = True
    ) -> None:
        """Append *event* to the journal, apply it, publish it.

        What the journal refused before is appended first, when it takes it now.

        Args:
            event: The fact.
            apply: Called with it when it is in the journal.
            must: False while stopping: giving back what is held goes on without the journal.

        Raises:
            JournalError: The journal does not take it; nothing was applied.
        """
        self._catch_up()
        if must and self._broken is not None:
            raise JournalError(
                f"the journal failed earlier in this run ({tell_text(self._broken)}); "
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

    def _catch_up(self) -> None:
        while self.unrecorded:
            if not self._append(self.unrecorded[0], must=False):
                return
            self.bus.publish(self.unrecorded.pop(0))
        self._broken, self._reported = None, False

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
            self._write_time += time.perf_counter() - begun
        self._writes += 1
        return True

    def levels(self) -> dict[str, float]:
        """Return how many events the journal has taken, and the seconds that took."""
        return {"writes_total": self._writes, "write_seconds_total": self._write_time}

    def waiting(self) -> int:
        """Return how many events are not where the journal keeps them yet."""
        return len(self.unrecorded) + int(getattr(self.journal, "waiting", 0))

    def take_error(self) -> Exception | None:
        """Return what broke the journal in this run, once."""
        if self._reported:
            return None
        self._reported = self._broken is not None
        return self._broken
