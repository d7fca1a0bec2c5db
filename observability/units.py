"""Records how units of work ended, beside the journal, and reads it again."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, cast

import msgspec

from lifecycle.correlation import Correlation
from lifecycle.event import Event
from lifecycle.journal import encode_event
from observability.runs import duration_text
from observability.writer import LineWriter

if TYPE_CHECKING:
    from lifecycle.bus import EventBus  # asyncio: who only reads needs none

_log = logging.getLogger("observability")

#: What is recorded: the end of each unit, and what went wrong on the way there.
TOPICS: Final = ("uow.close", "uow.retry", "uow.slow", "pool.exhausted")
#: Bytes after which the file is put aside as `<file>.1`, and the one that was there is lost.
MAX_BYTES: Final = 32 * 2**20
#: Seconds from which it is worth a word how long a unit waited for its connection.
WAITED: Final = 0.1


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
    return _decode(_line(event, run))


def _line(event: Event, run: int) -> str:
    # Not by as_dict(), which would cost a unit four times as much.
    return f'{{"run":{run},"topic":"{event.topic}",{encode_event(event)[1:]}'


_decode: Final = msgspec.json.Decoder(UnitFact).decode


def units_path(journal: Path) -> Path:
    """Return where the units of a journal's runs are recorded: `lifecycle.units.jsonl`."""
    return journal.with_suffix(".units.jsonl")


def record_units(
    bus: "EventBus", path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> Callable[[], None]:
    """Append what happens to units to a file, an object a line, in a thread of its own.

    The file is readable by its owner only. It holds names of handlers, ids of updates and texts
    of errors.

    Args:
        bus: The bus.
        path: The file; `units_path(journal)` is where the tools look for it.
        max_bytes: Size from which it is put aside as `<path>.1`.

    Returns:
        What ends the record.

    Raises:
        OSError: The file cannot be opened.
    """

    def report(lost: int) -> str:
        lines = {"run": bus.run, "topic": "record.lost", "at": time.time(), "lines": lost}
        return msgspec.json.encode(lines).decode()

    stream = _Rotating(Path(path), max_bytes)
    writer = LineWriter(cast("TextIO", stream), report)

    def keep(event: Event) -> None:
        writer.write(partial(_line, event, bus.run))

    subscriptions = [bus.subscribe(topic, keep, passive=True) for topic in TOPICS]

    def close() -> None:
        for subscription in subscriptions:
            subscription.cancel()
        writer.close()
        stream.close()

    return close


def read_units(path: Path, run: int) -> Iterator[UnitFact]:
    """Yield what is recorded about the units of a run, in order; nothing when there is no file.

    Args:
        path: The file.
        run: Number of the run.

    Raises:
        OSError: It cannot be read.
    """
    for each in (set_aside(path), path):
        if each.is_file():
            with each.open("rb") as lines:
                yield from facts(lines, run)


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


def summary(recorded: Iterable[UnitFact]) -> str:
    """Return how many units ended how, and which took longest; nothing when none has ended.

    Args:
        recorded: What is recorded of them.
    """
    closed = [fact for fact in recorded if fact.topic == "uow.close"]
    if not closed:
        return ""
    outcomes = Counter(fact.outcome.replace("_", " ") for fact in closed)
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    longest = max(closed, key=lambda fact: fact.duration)
    took = duration_text(longest.duration)
    units = "unit" if len(closed) == 1 else "units"
    longest_text = f"the longest, unit {longest.unit}, took {took}"
    return f"{len(closed)} {units} of work: {counts}; {longest_text}."


def set_aside(path: Path) -> Path:
    """Return where a full record is put."""
    return path.with_name(f"{path.name}.1")


class _Rotating:
    """A text file that is put aside when it is full."""

    encoding = "utf-8"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fails = False
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        if self._file.tell():
            self._file.write("\n")  # the last line may have been cut by the end of its process

    def write(self, text: str) -> None:
        """Take *text*; see `flush`."""
        with self._told():
            self._put(text)

    def flush(self) -> None:
        """Write what was taken; the first failure in a row is a warning."""
        with self._told():
            self._file.flush()
        self._fails = False

    def close(self) -> None:
        """Close the file; what it does not take is lost, and was warned about."""
        with suppress(OSError), self._told():
            self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._fails:
                self._fails = True
                _log.warning(
                    "[observability] units: %s: %s; units are not kept meanwhile", self._path, error
                )
            raise

    def _put(self, text: str) -> None:
        if not self._file.closed and self._file.tell() >= self._max_bytes:
            self._file.close()
        if self._file.closed:  # also when an earlier attempt failed on the way
            with suppress(FileNotFoundError):
                self._path.replace(set_aside(self._path))
            self._open()
        self._file.write(text)
