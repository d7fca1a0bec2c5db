"""Backups of one name, each with the time in its name: the next one, and those that are too old."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_STAMP: Final = "%Y%m%dT%H%M%SZ"
_STAMP_PATTERN: Final = r"\d{8}T\d{6}Z"


class Series:
    """The backups of one name, such as `bot-20260131T030000Z.sqlite3` for `bot.sqlite3`.

    Args:
        path: Folder and name, without a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = re.compile(
            rf"{re.escape(path.stem)}-{_STAMP_PATTERN}{re.escape(path.suffix)}\Z"
        )

    def next(self) -> Path:
        """Return the name of a backup that begins now; times are UTC."""
        stamp = datetime.now(UTC).strftime(_STAMP)
        return self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")

    def remove_old(self, keep: int) -> list[Path]:
        """Remove all but the newest backups of this name, and no other file.

        Args:
            keep: Number of backups that stay.

        Returns:
            What was removed.

        Raises:
            OSError: A file cannot be removed.
        """
        own = sorted(each for each in self._path.parent.iterdir() if self._own.match(each.name))
        old = own[:-keep]
        for each in old:
            each.unlink(missing_ok=True)  # another one may remove it as well
        return old
