"""Follows the record of units: what was added to it since the last look, each line once."""

import os
from io import BufferedReader
from pathlib import Path

from lifecycle.closing import Closing
from observability.units import UnitFact, facts, set_aside


class UnitTail(Closing):
    """Reads what is recorded about the units of a run; a context manager.

    Args:
        path: The file; it may come later, and may be put aside meanwhile.
        run: Number of the run.
    """

    def __init__(self, path: Path, run: int) -> None:
        self._path = path
        self._run = run
        self._file: BufferedReader | None = None

    def read(self) -> list[UnitFact]:
        """Return what is new.

        Raises:
            OSError: It cannot be read.
        """
        lines: list[bytes] = []
        if self._file is None and (aside := set_aside(self._path)).is_file():
            self._file = aside.open("rb")
        while True:
            if self._file is not None:
                lines += _rest(self._file)
            if not self._go_on():
                return list(facts(lines, self._run))

    def _go_on(self) -> bool:
        """Open the file that stands at the path now; False when it is the one that is read."""
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


def _rest(file: BufferedReader) -> list[bytes]:
    lines = file.readlines()
    if lines and not lines[-1].endswith(b"\n"):  # the rest of it is still to be written
        file.seek(-len(lines.pop()), 1)
    return lines


def _same(one: BufferedReader, other: BufferedReader) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())
