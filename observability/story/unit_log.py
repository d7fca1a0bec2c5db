"""The record of units, a file beside the journal: where it is, and what its lines say."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from lifecycle.correlation import Correlation
from lifecycle.event import Event
from lifecycle.journal import encode_event
from observability.vocabulary import POOL_EXHAUSTED, UNIT_CLOSE, UNIT_RETRY, UNIT_SLOW

#: What is recorded: the end of each unit, and what went wrong on the way there.
TOPICS: Final = (UNIT_CLOSE, UNIT_RETRY, UNIT_SLOW, POOL_EXHAUSTED)
#: Topic of a line that says how many lines of the record could not be written.
RECORD_LOST: Final = "record.lost"


class UnitFact(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the record; fields that an event does not have are empty.

    Args:
        run: Number of the run.
        topic: Topic of the event.
        at: When it happened, seconds since the epoch.
        unit: Number of the unit; 0 when it is about none.
        outcome: `committed`, `rolled_back` or `outcome_unknown`.
        error: What ended it, in one line.
        duration: Seconds from its begin to *at*.
        statements: Its statements.
        database_time: Seconds of waiting for them.
        waited: Seconds of waiting for a connection.
        attempt: Number of the attempt.
        size: Number of the connections that there were too few of.
        holders: Who held them, a line each, the longest first.
        lines: Lines of the record that could not be written.
        correlation: Whose it was: update, handler, plugin.
    """

    run: int
    topic: str
    at: float
    unit: int = 0
    outcome: str = ""
    error: str = ""
    duration: float = 0.0
    statements: int = 0
    database_time: float = 0.0
    waited: float = 0.0
    attempt: int = 1
    size: int = 0
    holders: tuple[str, ...] = ()
    lines: int = 0
    correlation: Correlation = Correlation()

    @property
    def plugin(self) -> str:
        """The plugin whose handler it was; empty when it was none."""
        return self.correlation.plugin or ""

    @property
    def where(self) -> list[str]:
        """The update that was being handled, and its handler, as far as they are known."""
        known = self.correlation
        update = f"update {known.update_id}" if known.update_id is not None else ""
        return [each for each in (update, known.handler) if each]


def unit_fact(event: Event, run: int) -> UnitFact:
    """Return what is recorded of *event*, whose topic is one of `TOPICS`.

    Args:
        event: The event.
        run: Number of the run.
    """
    return _decode(unit_line(event, run))


def unit_line(event: Event, run: int) -> str:
    """Return what is recorded of *event* as a line of the record; see `unit_fact`."""
    # Not by as_dict(), which would cost a unit four times as much.
    return f'{{"run":{run},"topic":"{event.topic}",{encode_event(event)[1:]}'


_decode: Final = msgspec.json.Decoder(UnitFact).decode


def units_path(journal: Path) -> Path:
    """Return where the units of a journal's runs are recorded: `lifecycle.units.jsonl`."""
    return journal.with_suffix(".units.jsonl")


def rotated(path: Path) -> Path:
    """Return where a full record is moved."""
    return path.with_name(f"{path.name}.1")


def facts(lines: Iterable[bytes], run: int) -> Iterator[UnitFact]:
    """Yield what *lines* of the record say about the units of a run.

    Args:
        lines: The lines.
        run: Number of the run.
    """
    for line in lines:
        try:
            fact = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # the process died while it wrote the line
        if fact.run == run:
            yield fact
