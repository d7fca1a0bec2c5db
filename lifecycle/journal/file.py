"""The file of a SQLite journal: its tables, checksums and errors."""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from lifecycle.correlation import Correlation
from lifecycle.errors import JournalCorruptError, JournalError
from lifecycle.event import EVENT_TYPES, Event
from lifecycle.journal.port import UnknownEvent

VERSION: Final = 1

SCHEMA: Final = (
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
    f"PRAGMA user_version = {VERSION}",
)
INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)"
END: Final = "UPDATE runs SET ended_at = ?, events = ?, checksum = ? WHERE run = ?"

#: Seconds to wait for a tool that looks at the lock at the very moment we take it.
LOCK_TIMEOUT: Final = 0.1

DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
DENIED: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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


def code_of(error: sqlite3.Error) -> int:
    """Return the primary result code of *error*; 0 when it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def as_journal_error(path: Path, doing: str, error: Exception, way_out: str = "") -> JournalError:
    """Return *error* as an error of the journal, which names the file.

    Args:
        path: The file.
        doing: What failed.
        error: The error.
        way_out: What helps when the file cannot be made or written.
    """
    said = getattr(error, "sqlite_errorname", type(error).__name__)
    # Names of columns and texts of errors are decoded by the sqlite3 module itself.
    if isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error) and code_of(error) in DAMAGED
    ):
        return JournalCorruptError(f"journal {path} is damaged: {error} ({said})")
    denied = isinstance(error, OSError) or (
        isinstance(error, sqlite3.Error) and code_of(error) in DENIED
    )
    return JournalError(
        f"journal {path}: cannot {doing}: {error} ({said}){way_out if denied else ''}"
    )


@contextmanager
def naming(path: Path, doing: str, way_out: str = "") -> Iterator[None]:
    """Turn errors of SQLite and of the operating system into ours; see `as_journal_error`.

    Raises:
        JournalError: The block failed with such an error.
    """  # noqa: DOC501 -- `as_journal_error` is a function, which returns a JournalError
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise as_journal_error(path, doing, error, way_out) from error


def next_checksum(previous: int, *row: object) -> int:
    """Return the checksum of *row* after a row whose checksum is *previous*."""
    # ascii() is the same for equal values in every version of Python, and takes whatever type a
    # flipped bit has made of a column.
    return zlib.crc32(ascii(row).encode("ascii"), previous)


def encode_event(event: Event) -> str:
    """Return *event* as JSON, also when a text of it is not proper Unicode."""
    try:
        return msgspec.json.encode(event).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of an undecodable file
        text = json.dumps(msgspec.to_builtins(event), ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def decode_event(topic: str, payload: str) -> Event:
    """Return the event of a row; one that this version does not know is still readable."""
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


def lock_path(path: Path) -> Path:
    """Return the file whose lock says that somebody writes the journal at *path*."""
    return path.with_name(f"{path.name}-lock")


def connect(path: Path, timeout: float = 1.0) -> sqlite3.Connection:
    """Open *path* for writing; a new file is readable by its owner only, and so is its WAL."""
    # Never a file that is there: closing it would take SQLite's locks on it from this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    # One thread opens a journal and another writes it, one at a time (writer.py).
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
