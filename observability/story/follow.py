"""Reads a run from the journal and the record of units, once or until it ends."""

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
    """A run at one moment.

    Args:
        head: What the journal says about the run itself.
        live: True while a process is writing it.
        history: All of its entries.
        entries: Those that are new since the last look.
        recorded: All records of its units of work.
        units: Those that are new since the last look.
    """

    head: Run
    live: bool
    history: list[JournalEntry]
    entries: list[JournalEntry]
    recorded: list[UnitFact]
    units: list[UnitFact]

    def about(self, plugin: str) -> Self:
        """Return the part that is about a plugin.

        Raises:
            JournalError: The run is over and has no such plugin.
        """
        known = {getattr(each.event, "plugin", "") for each in self.history}
        known |= {each.owner for each in self.recorded}  # tables may have no plugin of their own
        known -= {""}
        if plugin not in known and not self.live:
            raise JournalError(
                f"run {self.head.run} has no plugin {plugin!r}{nearest(plugin, known)}; there "
                f"are: {', '.join(map(printable, sorted(known))) or 'none'}"
            )
        return self._replace(
            entries=[each for each in self.entries if _plugin(each.event) == plugin],
            recorded=[each for each in self.recorded if plugin in {each.plugin, each.owner}],
            units=[each for each in self.units if plugin in {each.plugin, each.owner}],
        )


def follow(reader: JournalReader, number: int, *, until_the_end: bool) -> Iterator[Look]:
    """Look at a run, once or again and again.

    Args:
        reader: The journal.
        number: Number of the run.
        until_the_end: Keep looking until no process is writing the run; else look once.

    Yields:
        The run at each look; at least one.

    Raises:
        JournalError: There is no such run.
    """
    head, version = find_run(reader, number), None
    history: list[JournalEntry] = []
    recorded: list[UnitFact] = []
    with UnitTail(units_path(reader.path), number) as tail:
        while True:
            # Ask first: what the process wrote before it exited must be read after we know that it
            # has.
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
