"""Opens a SQLite file with settings that are safe for several units."""

import sqlite3
from collections.abc import Callable
from typing import Any

from db_manager.dialects.sqlite.locks import SLICE


class _Opened(sqlite3.Connection):
    """Keeps what SQLAlchemy says about isolation from the driver.

    To the driver `isolation_level` tells when to begin transactions of its own; we begin them.
    """

    #: None when SQLAlchemy asked for AUTOCOMMIT: then nothing begins a transaction.
    asked: str | None = ""

    @property  # type: ignore[override]  # a plain attribute of fewer values there
    def isolation_level(self) -> str | None:
        return self.asked

    @isolation_level.setter
    def isolation_level(self, level: str | None) -> None:
        self.asked = level


def connector(path: str, *, synchronous: str, **arguments: Any) -> Callable[[], Any]:
    """Return a function that opens *path* with settings that are safe for several units.

    Args:
        path: File, `:memory:` or a `file:` URI.
        synchronous: `NORMAL` (survives kill -9) or `FULL` (also power loss).
        **arguments: For `sqlite3.connect`, as `timeout`: seconds to wait for the lock of another
            process.

    Returns:
        A function for the driver's thread.
    """
    options = {"uri": path.startswith("file:"), "factory": _Opened, **arguments}
    options["timeout"] = min(SLICE, options.get("timeout", SLICE))

    def connect() -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(
            path, **options | {"isolation_level": None}
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    return connect
