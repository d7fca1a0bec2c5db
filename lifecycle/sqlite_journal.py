"""The journal in a SQLite file: it outlives the process, whatever kills it."""

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from lifecycle.errors import JournalCorruptError, JournalError, JournalLockedError
from lifecycle.events import EVENT_TYPES, AppCrashed, Correlation, Event
from lifecycle.journal import JournalEntry, UnknownEvent, crash_report

_VERSION: Final = 1

_SCHEMA: Final = (
    """CREATE TABLE runs (
        run INTEGER PRIMARY KEY AUTOINCREMENT,
        pid INTEGER NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,
        events INTEGER,
        checksum INTEGER
    )""",
    """CREATE TABLE events (
        run INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at REAL NOT NULL,
        topic TEXT NOT NULL,
        payload TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (run, seq)
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {_VERSION}",
)
_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)"

#: Seconds to wait for a tool that looks at the lock at the very moment we take it.
_LOCK_TIMEOUT: Final = 0.1

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a journal knows.

    Args:
        run: Its number.
        pid: Id of the process it ran in.
        started_at: When it began, seconds since the epoch.
        ended_at: When it ended; None when it still runs, or died.
    """

    run: int
    pid: int
    started_at: float
    ended_at: float | None


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code of *error*; 0 when it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _ours(path: Path, doing: str, error: Exception) -> JournalError:
    """Return *error* as an error of the journal, which names the file."""
    said = getattr(error, "sqlite_errorname", type(error).__name__)
    # Names of columns and texts of errors are decoded by the sqlite3 module itself.
    if isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error) and _code(error) in _DAMAGED
    ):
        return JournalCorruptError(f"journal {path} is damaged: {error} ({said})")
    return JournalError(f"journal {path}: cannot {doing}: {error} ({said})")


@contextmanager
def _naming(path: Path, doing: str) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system into ours."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise _ours(path, doing, error) from error


def _next_checksum(previous: int, *row: object) -> int:
    # ascii() is the same for equal values in every version of Python, and takes whatever type a
    # flipped bit has made of a column.
    return zlib.crc32(ascii(row).encode("ascii"), previous)


def _encode(event: Event) -> str:
    try:
        return msgspec.json.encode(event).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of an undecodable file
        text = json.dumps(msgspec.to_builtins(event), ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def _decode(topic: str, payload: str) -> Event:
    known = EVENT_TYPES.get(topic)
    if known is not None:
        try:
            event: Event = msgspec.json.decode(payload, type=known)
        except msgspec.ValidationError:
            pass  # its fields were others when this was written
        else:
            return event
    fields: dict[str, Any] = msgspec.json.decode(payload)
    at, correlation = fields.pop("at"), fields.pop("correlation")
    return UnknownEvent(
        topic=topic, fields=fields, at=at, correlation=msgspec.convert(correlation, Correlation)
    )


class JournalReader:
    """Reads a journal, also while a process writes it; a context manager.

    Args:
        path: The journal's file.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise JournalError(f"journal {self.path}: there is no such file")
        with _naming(self.path, "open it"):
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        # Bytes that are no text any more must reach the checksum, not end in another error.
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")

    def runs(self) -> list[Run]:
        """Return every run, the oldest first.

        Raises:
            JournalError: They cannot be read.
        """
        rows = self._fetch("SELECT run, pid, started_at, ended_at FROM runs ORDER BY run")
        # SQLite itself remembers the last number it gave: the oldest may go, but no others.
        given = self._fetch("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        last = given[0][0] if given else 0
        if [row[0] for row in rows] != list(range(last - len(rows) + 1, last + 1)) or (
            last and not rows
        ):
            raise JournalCorruptError(f"journal {self.path}: a run is missing of the last {last}")
        return [
            Run(run=run, pid=pid, started_at=started_at, ended_at=ended_at)
            for run, pid, started_at, ended_at in rows
        ]

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Yield the history in order; what was changed since it was written is refused.

        Args:
            run: The run to read; None reads all of them.

        Raises:
            JournalCorruptError: An event was changed or is missing.
            JournalError: They cannot be read.
        """
        for one in [run] if run is not None else [known.run for known in self.runs()]:
            yield from self._entries(one)

    def crash(self) -> AppCrashed | None:
        """Return where the last run stopped when it has no end: it runs still, or died.

        Raises:
            JournalError: That run cannot be read.
        """
        runs = self.runs()
        if not runs:
            return None
        entries = self._entries(runs[-1].run)
        if runs[-1].ended_at is not None:
            return None
        return crash_report(runs[-1].run, entries[-1] if entries else None)

    def is_live(self) -> bool:
        """Return whether a process writes this journal now."""
        lock = _lock_path(self.path)
        if not lock.is_file():
            return False
        uri = f"{lock.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
            try:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
            except sqlite3.OperationalError as error:
                return _code(error) in _BUSY
        return False

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _fetch(self, query: str, *values: object) -> list[Any]:
        with _naming(self.path, "read it"):
            return self._connection.execute(query, values).fetchall()

    def _entries(self, run: int) -> list[JournalEntry]:
        """Return the entries of one run, each checked against the one before."""
        # The end is read first: a run that ends in between only has more events than we need.
        heads = self._fetch(
            "SELECT run, pid, started_at, ended_at, events, checksum FROM runs WHERE run = ?", run
        )
        rows = self._fetch(
            "SELECT seq, at, topic, payload, checksum FROM events WHERE run = ? ORDER BY seq", run
        )
        if not heads:
            if rows:
                raise JournalCorruptError(f"journal {self.path}: run {run} is missing")
            return []
        *head, ended_at, events, last = heads[0]
        checksum = _next_checksum(0, *head)
        entries: list[JournalEntry] = []
        for expected, (seq, at, topic, payload, stored) in enumerate(rows, 1):
            checksum = _next_checksum(checksum, seq, at, topic, payload)
            if seq != expected or checksum != stored:
                raise JournalCorruptError(
                    f"journal {self.path}: event {expected} of run {run} was changed or is "
                    f"missing; move the file away to go on with a new one"
                )
            entries.append(JournalEntry(seq=seq, run=run, event=_decode(topic, payload)))
        if (ended_at, events, last) != (None, None, None) and (
            events != len(rows) or last != _next_checksum(checksum, ended_at, events)
        ):
            raise JournalCorruptError(
                f"journal {self.path}: the end of run {run} was changed, or events after "
                f"event {len(rows)} are missing; move the file away to go on with a new one"
            )
        return entries


class SqliteJournal:
    """A journal in a SQLite file (WAL), which keeps every run.

    What was appended survives the death of the process by any means. SQLite syncs at checkpoints
    only (`synchronous = NORMAL`): a power cut may take the last events, never ones in the middle.
    Each event carries a checksum over itself and all before it in its run. The file is readable
    by its owner only. One process writes at a time: it holds a lock on `<path>-lock`, which the
    operating system takes away when the process is gone; readers need no lock.

    Args:
        path: The file; made when it is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run = 0
        self._seq = 0
        self._checksum = 0
        self._lock: sqlite3.Connection | None = None
        self._connection: sqlite3.Connection | None = None

    @staticmethod
    def read(path: str | os.PathLike[str]) -> JournalReader:
        """Return a reader of the journal at *path*, for tools.

        Raises:
            JournalError: There is no journal, or it cannot be read.
        """
        return JournalReader(path)

    def open(self) -> AppCrashed | None:
        """Begin a new run; see `Journal.open`.

        Raises:
            JournalLockedError: Another process writes this journal.
            JournalCorruptError: The last run was changed since it was written.
            JournalError: A run is open already, or the file cannot be used.
        """
        if self._connection is not None:
            raise JournalError(f"journal {self.path} is open already")
        with _naming(self.path, "open it"):
            self._lock = self._take_lock()
            try:
                self._connection = _connect(self.path)
                self._prepare(self._connection)
                with JournalReader(self.path) as reader:
                    crash = reader.crash()
                self._begin(self._connection)
            except BaseException:
                self._release()
                raise
        return crash

    def append(self, event: Event) -> JournalEntry:
        """Keep *event*; see `Journal.append`."""
        if self._connection is None:
            raise JournalError(f"{event.topic} cannot be kept: journal {self.path} is not open")
        entry = JournalEntry(seq=self._seq + 1, run=self.run, event=event)
        row = (entry.seq, float(event.at), event.topic, _encode(event))
        checksum = _next_checksum(self._checksum, *row)
        try:
            self._connection.execute(_INSERT, (self.run, *row, checksum))
        except sqlite3.Error as error:
            raise _ours(self.path, f"keep {event.topic}", error) from error
        self._seq, self._checksum = entry.seq, checksum
        return entry

    def entries(self, run: int | None = None) -> Iterator[JournalEntry]:
        """Yield the history; see `JournalReader.entries`."""
        if not self.path.exists():
            return
        with JournalReader(self.path) as reader:
            yield from reader.entries(run)

    def close(self, *, clean: bool) -> None:
        """End the run; see `Journal.close`."""
        if self._connection is None:
            return
        try:
            if clean:
                now = time.time()
                end = (now, self._seq, _next_checksum(self._checksum, now, self._seq), self.run)
                with _naming(self.path, "keep the end of the run"):
                    self._connection.execute(
                        "UPDATE runs SET ended_at = ?, events = ?, checksum = ? WHERE run = ?", end
                    )
        finally:
            self._release()

    def __repr__(self) -> str:
        return f"<SqliteJournal {str(self.path)!r} run={self.run} open={self._lock is not None}>"

    def _take_lock(self) -> sqlite3.Connection:
        lock = _connect(_lock_path(self.path), timeout=_LOCK_TIMEOUT)
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is written: no third file
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if _code(error) not in _BUSY:
                raise
            raise JournalLockedError(
                f"journal {self.path} is written by {self._writer()}; stop that process, or give "
                f'this one a file of its own: [app] journal = "another.sqlite3"'
            ) from error
        return lock

    def _writer(self) -> str:
        try:
            with JournalReader(self.path) as reader:
                last = reader.runs()[-1]
        except (JournalError, IndexError):
            return "another process"
        return f"process {last.pid}" if last.ended_at is None else "another process"

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > _VERSION or (version == 0 and tables):
            whose = "a newer version of this program" if version else "something else"
            raise JournalError(
                f"{self.path} was made by {whose}; give the journal another file: [app] journal"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")

    def _begin(self, connection: sqlite3.Connection) -> None:
        head = (os.getpid(), time.time())
        cursor = connection.execute("INSERT INTO runs (pid, started_at) VALUES (?, ?)", head)
        self.run = cursor.lastrowid or 0
        self._seq, self._checksum = 0, _next_checksum(0, self.run, *head)

    def _release(self) -> None:
        for connection in (self._connection, self._lock):
            if connection is not None:
                connection.close()
        self._connection = self._lock = None


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _connect(path: Path, timeout: float = 1.0) -> sqlite3.Connection:
    """Open *path* for writing; a new file is readable by its owner only, and so is its WAL."""
    # Never a file that is there: closing it would take SQLite's locks on it from this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return sqlite3.connect(path, timeout=timeout, isolation_level=None)
