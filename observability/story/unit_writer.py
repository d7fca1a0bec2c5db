"""Writes the record of units."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, TextIO, cast

import msgspec

from lifecycle.bus import EventBus
from lifecycle.event import Event
from observability.logs.writer import LineWriter
from observability.story.unit_log import RECORD_LOST, TOPICS, rotated, unit_line

_log = logging.getLogger("observability")

#: Size in bytes at which the file is rotated to `<file>.1`, which replaces the previous one.
MAX_BYTES: Final = 32 * 2**20


def record_units(
    bus: EventBus, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> Callable[[], None]:
    """Append what happens to units to a file, in a thread, one JSON object per line.

    The file is readable by its owner only. It holds names of handlers, ids of updates, and what is
    told of errors, without their texts. What it does not take is counted, and the count is a line
    (`record.lost`) as soon as it takes one again.

    Args:
        bus: The bus.
        path: The file; the commands look for it at `units_path(journal)`.
        max_bytes: Size in bytes at which it is rotated to `<path>.1`.

    Returns:
        A function that ends the record.

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
    """A text file that is put aside when it is full; what it does not take leaves no trace."""

    encoding = "utf-8"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fails = False
        self._closed = False
        self._writing = Lock()
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # Without a buffer, which would keep what was refused, and write it some other time.
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._is_cut = self._size() > 0  # by the end of its process, maybe

    def write(self, text: str) -> None:
        """Write all of *text*, or nothing; the first failure in a row is a warning.

        Raises:
            OSError: The file does not take it.
            ValueError: It was closed.
        """
        data = text.encode()
        try:
            with self._writing:
                if self._closed:
                    raise ValueError(f"{self._path} is closed")
                self._put(data)
            self._fails = False
        except OSError as error:
            if not self._fails:
                self._fails = True
                _log.warning(
                    "[observability] units: %s: %s; units are not recorded until this is fixed",
                    self._path,
                    error,
                )
            raise
        finally:
            if self._closed:  # meanwhile
                self.close()

    def flush(self) -> None:
        """Do nothing: `write` has written it."""

    def close(self) -> None:
        """Close the file; when it hangs in a write, as soon as that has ended."""
        self._closed = True
        if self._writing.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._file.close()
            finally:
                self._writing.release()

    def _put(self, data: bytes) -> None:
        if not self._file.closed and self._size() >= self._max_bytes:
            self._file.close()
        if self._file.closed:  # also after an earlier attempt that failed halfway
            with suppress(FileNotFoundError):
                self._path.replace(rotated(self._path))
            self._open()
        before = self._size()
        rest = memoryview(b"\n" + data if self._is_cut else data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._is_cut = True
            with suppress(OSError):
                self._file.truncate(before)
            raise
        self._is_cut = False

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size
