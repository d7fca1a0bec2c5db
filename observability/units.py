"""Records how units of work ended, beside the journal, and reads it again."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TextIO, cast

import msgspec

from lifecycle.bus import EventBus
from lifecycle.events import Event
from observability.writer import LineWriter

#: What is recorded: the end of each unit, and what went wrong on the way there.
TOPICS: Final = ("uow.close", "uow.retry", "uow.slow", "pool.exhausted")
#: Bytes after which the file is put aside as `<file>.1`, and the one that was there is lost.
MAX_BYTES: Final = 32 * 2**20


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
        attempt: Number of the attempt.
        plugin: The plugin whose handler opened it.
        handler: That handler.
        update_id: The update that was being handled.
        holders: Who held the connections that there were too few of.
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
    attempt: int = 1
    plugin: str = ""
    handler: str = ""
    update_id: int | None = None
    holders: tuple[str, ...] = ()


def unit_fact(event: Event, run: int) -> UnitFact:
    """Return what is recorded of *event*, whose topic is one of `TOPICS`.

    Args:
        event: The event.
        run: Number of the run.
    """
    return msgspec.convert({"run": run, **event.as_dict()}, UnitFact)


def units_path(journal: Path) -> Path:
    """Return where the units of a journal's runs are recorded: `lifecycle.units.jsonl`."""
    return journal.with_suffix(".units.jsonl")


def record_units(
    bus: EventBus, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
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
    encode = msgspec.json.Encoder().encode

    def report(lost: int) -> str:
        lines = {"run": bus.run, "topic": "record.lost", "at": time.time(), "lines": lost}
        return encode(lines).decode()

    stream = _Rotating(Path(path), max_bytes)
    writer = LineWriter(cast("TextIO", stream), report)

    def keep(event: Event) -> None:
        writer.write(encode({"run": bus.run, **event.as_dict()}).decode())

    subscriptions = [bus.subscribe(topic, keep) for topic in TOPICS]

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
    decode = msgspec.json.Decoder(UnitFact).decode
    for each in (_set_aside(path), path):
        if not each.is_file():
            continue
        with each.open("rb") as lines:
            for line in lines:
                try:
                    fact = decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # the process died while it wrote the line
                if fact.run == run:
                    yield fact


def _set_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


class _Rotating:
    """A text file that is put aside when it is full."""

    encoding = "utf-8"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        if self._file.tell():
            self._file.write("\n")  # the last line may have been cut by the end of its process

    def write(self, text: str) -> None:
        if self._file.tell() >= self._max_bytes:
            self._file.close()
            self._path.replace(_set_aside(self._path))
            self._open()
        self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
