"""Follows a run: what the journal and the record of units say, each time somebody looks."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from lifecycle.errors import JournalError, nearest
from lifecycle.event import Event
from lifecycle.journal import JournalEntry, JournalReader, Run
from lifecycle.printable import printable
from observability.story.runs import find_run, is_live
from observability.story.unit_log import UnitFact, units_path
from observability.story.unit_reader import UnitTail

#: Seconds between two looks at the journal.
INTERVAL: Final = 0.2


class Look(NamedTuple):
    """What the journal says at one moment.

    Args:
        head: The run.
        live: True when a process writes it now.
        history: All entries of it.
        entries: Those that are new, and are to be shown.
        recorded: All that is recorded about its units of work.
        units: What is new of that.
    """

    head: Run
    live: bool
    history: list[JournalEntry]
    entries: list[JournalEntry]
    recorded: list[UnitFact]
    units: list[UnitFact]

    def about(self, plugin: str) -> Self:
        """Return what is about a plugin.

        Raises:
            JournalError: No event is about it, and none can be any more.
        """
        known = {getattr(each.event, "plugin", "") for each in self.history} - {""}
        if plugin not in known and not self.live:
            raise JournalError(
                f"run {self.head.run} has no plugin {plugin!r}{nearest(plugin, known)}; there "
                f"are: {', '.join(map(printable, sorted(known))) or 'none'}"
            )
        return self._replace(
            entries=[each for each in self.entries if _plugin(each.event) == plugin],
            recorded=[each for each in self.recorded if each.plugin == plugin],
            units=[each for each in self.units if each.plugin == plugin],
        )


def follow(reader: JournalReader, number: int, *, until_the_end: bool) -> Iterator[Look]:
    """Look at a run, and look again whenever something may be new.

    Args:
        reader: The journal.
        number: Number of the run.
        until_the_end: Go on until no process writes the run any more; else look once.

    Yields:
        What each look shows; at least one.

    Raises:
        JournalError: There is no such run.
    """
    head, version = find_run(reader, number), None
    history: list[JournalEntry] = []
    recorded: list[UnitFact] = []
    with UnitTail(units_path(reader.path), number) as tail:
        while True:
            # First of all: what a process wrote before it went must be read after it went.
            live = is_live(reader, number)
            seen, units = len(history), tail.read()
            recorded += units
            latest = reader.version()
            if latest != version:
                version, head = latest, find_run(reader, number)
                history = list(reader.entries(number))
            yield Look(head, live, history, history[seen:], recorded, units)
            if not (until_the_end and live):
                return
            time.sleep(INTERVAL)


def _plugin(event: Event) -> str | None:
    return getattr(event, "plugin", None) or event.correlation.plugin
