"""Reads the record of units: all of a run, or what is new."""

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from observability.story.unit_log import UnitFact, facts, rotated


def read_units(path: Path, run: int) -> Iterator[UnitFact]:
    """Yield the records of a run in order; nothing if there is no file.

    Args:
        path: The file.
        run: Number of the run.

    Raises:
        OSError: The file cannot be read.
    """
    for each in (rotated(path), path):
        if each.is_file():
            with each.open("rb") as lines:
                yield from facts(lines, run)


class UnitTail:
    """Reads the records of a run as they are added, each once; a context manager.

    Args:
        path: The file; it may appear later, and may be rotated meanwhile.
        run: Number of the run.
    """

    def __init__(self, path: Path, run: int) -> None:
        self._path = path
        self._run = run
        self._file: BufferedReader | None = None

    def read(self) -> list[UnitFact]:
        """Return the records since the last call.

        Raises:
            OSError: The file cannot be read.
        """
        lines: list[bytes] = []
        if self._file is None and (aside := rotated(self._path)).is_file():
            self._file = aside.open("rb")
        while True:
            if self._file is not None:
                lines += _rest(self._file)
            if not self._go_on():
                return list(facts(lines, self._run))

    def _go_on(self) -> bool:
        """Open the file that is at the path now; return False if it is open already."""
        if not self._path.is_file():
            return False
        newer = self._path.open("rb")
        if self._file is not None and _same(self._file, newer):
            newer.close()
            return False
        self.close()
        self._file = newer
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _rest(file: BufferedReader) -> list[bytes]:
    lines = file.readlines()
    if lines and not lines[-1].endswith(b"\n"):  # its end is not written yet
        file.seek(-len(lines.pop()), 1)
    return lines


def _same(one: BufferedReader, other: BufferedReader) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())
