"""Writes the rows of a journal in order, in a thread: a file that hangs holds nobody up."""

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread, current_thread
from typing import Any, Final

from lifecycle.error_text import tell_text
from lifecycle.journal.file import BUSY, code_of

#: Seconds that `write` waits for the file; what is not written by then stands in line.
PATIENCE: Final = 0.03
#: Seconds between two attempts at the first in line.
RETRY: Final = 0.02
#: Seconds that the thread waits for more to write before it ends.
_IDLE: Final = 0.5

_log = logging.getLogger("lifecycle")


class Row:
    """A statement on its way into the file.

    Args:
        statement: The SQL.
        values: Its values.
        kept: What the row stands for, returned by `waiting`.
    """

    __slots__ = ("kept", "refused", "statement", "values", "waited_for")

    def __init__(self, statement: str, values: tuple[Any, ...], kept: object = None) -> None:
        self.statement = statement
        self.values = values
        self.kept = kept
        self.waited_for = True
        self.refused: Exception | None = None


class JournalWriter:
    """The line of rows before one SQLite file.

    A row is written when all before it are. A file that is locked is asked again, for as long as
    it takes, and so is one that refuses a row for which nobody waits any more: what stands behind
    it would be worth nothing without it. The line has no bound, because plugins that move fill it,
    a row for a step: a full one could only drop what cannot be told again.

    Args:
        path: The file, for the log.
        connection: Its connection, with `check_same_thread=False`; closed by `close`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._rows: deque[Row] = deque()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._behind = False
        self._closing = False
        self._release: Callable[[], None] = lambda: None
        #: Why the first in line is not written yet.
        self.hindrance = ""
        connection.execute("PRAGMA busy_timeout = 0")  # waiting is done here, where it can end

    def waiting(self) -> list[Any]:
        """Return what stands in line, the first in line first."""
        with self._changed:
            return [row.kept for row in self._rows]

    def write(self, row: Row) -> None:
        """Write *row*, or let it stand in line when the file is not free within 0.03 s.

        Args:
            row: The row.

        Raises:
            Exception: The file refuses it, and nothing is before it; it is not in line.
            RuntimeError: No thread can be started; it is not in line.
        """
        with self._changed:
            if self._rows:  # the file is known not to answer: no second wait
                row.waited_for = False
            self._put(row)
            late = row.waited_for and not self._changed.wait_for(self._nobody, PATIENCE)
            if late:
                row.waited_for = False
            hindrance = self.hindrance
        if late:
            self._fall_behind(hindrance)
        if row.refused is not None:
            raise row.refused

    def finish(self, row: Row | None, limit: float) -> int:
        """Write everything in line, and *row* after it.

        Args:
            row: The last one.
            limit: Seconds to wait.

        Returns:
            How many rows are not written by then, *row* included; they stand in line until
            `close`.

        Raises:
            RuntimeError: No thread can be started; *row* is not in line.
        """
        with self._changed:
            if row is not None:
                row.waited_for = False
                self._put(row)
            self._changed.wait_for(self._nobody, limit)
            return len(self._rows)

    def close(self, release: Callable[[], None], limit: float) -> None:
        """Forget what stands in line and close the file; one that hangs, as soon as it answers.

        Args:
            release: Called when the file is closed.
            limit: Seconds to wait for that.
        """
        with self._changed:
            self._rows.clear()
            self._release = release
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is None:
            self._close()
        else:
            thread.join(limit)

    def _nobody(self) -> bool:
        return not self._rows

    def _put(self, row: Row) -> None:
        if self._thread is None:  # it lives while there is something to write, and a bit longer
            thread = Thread(target=self._work, name="journal", daemon=True)
            thread.start()  # may fail, and then nothing has changed
            self._thread = thread
        self._rows.append(row)
        self._changed.notify_all()

    def _fall_behind(self, hindrance: str) -> None:
        # Outside of the lock: where logs go may block.
        _log.warning(
            "journal %s does not answer (%s); events stand in line for it until it does",
            self._path,
            hindrance or "no word from it",
        )
        with self._changed:
            self._behind = bool(self._rows)
            caught_up = not self._behind
        if caught_up:  # while that was logged
            self._say_caught_up()

    def _say_caught_up(self) -> None:
        _log.warning("journal %s answers again and has caught up", self._path)

    def _work(self) -> None:
        while (row := self._first()) is not None:
            try:
                self._connection.execute(row.statement, row.values)
            except Exception as error:  # noqa: BLE001 -- raised to the caller who waits, else tried again
                self._not_written(row, error)
            else:
                self._written()
        if self._thread is current_thread():
            self._close()

    def _first(self) -> Row | None:
        with self._changed:
            while not self._rows:
                if self._closing:
                    return None
                if not self._changed.wait(_IDLE) and not (self._rows or self._closing):
                    self._thread = None
                    return None
            return self._rows[0]

    def _written(self) -> None:
        with self._changed:
            if self._rows:  # else it was given up meanwhile
                self._rows.popleft()
            self.hindrance = ""
            caught_up = self._behind and not self._rows
            self._behind = self._behind and not caught_up
            self._changed.notify_all()
        if caught_up:
            self._say_caught_up()

    def _not_written(self, row: Row, error: Exception) -> None:
        with self._changed:
            self.hindrance = tell_text(error)
            if row.waited_for and not _is_busy(error):
                row.refused = error
                self._rows.popleft()
                self._changed.notify_all()
            elif not self._closing:
                self._changed.wait(RETRY)

    def _close(self) -> None:
        self._connection.close()
        self._release()


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and code_of(error) in BUSY
