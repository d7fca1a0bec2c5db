"""Records how units of work ended, beside the journal."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TextIO, cast

import msgspec

from lifecycle.bus import EventBus
from lifecycle.event import Event
from observability.logs.writer import LineWriter
from observability.story.unit_log import RECORD_LOST, TOPICS, rotated, unit_line

_log = logging.getLogger("observability")

#: Bytes after which the file is put aside as `<file>.1`, and the one that was there is lost.
MAX_BYTES: Final = 32 * 2**20


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

    def report(lost: int) -> str:
        lines = {"run": bus.run, "topic": RECORD_LOST, "at": time.time(), "lines": lost}
        return msgspec.json.encode(lines).decode()

    stream = _Rotating(Path(path), max_bytes)
    writer = LineWriter(cast("TextIO", stream), report)

    def keep(event: Event) -> None:
        writer.write(partial(unit_line, event, bus.run))

    subscriptions = [bus.subscribe(topic, keep, passive=True) for topic in TOPICS]

    def close() -> None:
        for subscription in subscriptions:
            subscription.cancel()
        writer.close()
        stream.close()

    return close


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
                self._path.replace(rotated(self._path))
            self._open()
        self._file.write(text)
