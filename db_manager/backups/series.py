"""Backups of one name, each with the time in its name: the next one, and those that are too old."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_STAMP: Final = "%Y%m%dT%H%M%SZ"
_STAMP_PATTERN: Final = r"[0-9]{8}T[0-9]{6}Z"


class Series:
    """The backups of one name, such as `bot-20260131T030000Z.sqlite3` for `bot.sqlite3`.

    Args:
        path: Folder and name, without a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = re.compile(
            rf"{re.escape(path.stem)}-({_STAMP_PATTERN}){re.escape(path.suffix)}\Z"
        )

    def next(self) -> Path:
        """Return the name of a backup that begins now; times are UTC."""
        stamp = datetime.now(UTC).strftime(_STAMP)
        return self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")

    def remove_old(self, keep: int) -> list[Path]:
        """Remove all but the newest backups of this name, and no other file.

        A time that is yet to come was written while the clock was ahead: such a backup is older
        than all that have a time of the past.

        Args:
            keep: Number of backups that stay.

        Returns:
            What was removed.

        Raises:
            OSError: A file cannot be removed.
        """
        now = datetime.now(UTC)
        times = {each: self._time_of(each) for each in self._path.parent.iterdir()}
        own = {each: time for each, time in times.items() if time is not None}
        old = sorted(own, key=lambda each: (own[each] <= now, own[each]))[:-keep]
        for each in old:
            each.unlink(missing_ok=True)  # another one may remove it as well
        return old

    def _time_of(self, file: Path) -> datetime | None:
        """Return when *file* was made, by its name; None if it is no backup of this name."""
        found = self._own.match(file.name)
        if found is not None and file.is_file() and not file.is_symlink():
            with suppress(ValueError):  # digits, but no time
                return datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC)
        return None
