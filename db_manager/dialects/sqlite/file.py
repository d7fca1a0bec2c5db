"""Opens a SQLite file with settings that are safe for concurrent units."""

import sqlite3
from collections.abc import Callable
from typing import Any

from db_manager.dialects.sqlite.locks import SLICE


class _Opened(sqlite3.Connection):
    """Keeps the isolation level that SQLAlchemy sets away from the driver.

    The driver would use `isolation_level` to begin transactions by itself; here we begin them.
    """

    #: Hides the driver's. None if SQLAlchemy set AUTOCOMMIT: then no transaction is begun.
    isolation_level: str | None = ""  # type: ignore[assignment]  # a narrower type there


def connector(path: str, *, synchronous: str, **arguments: Any) -> Callable[[], Any]:
    """Return a function that opens *path* with settings that are safe for concurrent units.

    Args:
        path: File, `:memory:` or a `file:` URI.
        synchronous: `NORMAL` (survives kill -9) or `FULL` (also power loss).
        **arguments: For `sqlite3.connect`, for example `timeout`, the longest wait in seconds for
            the lock of another process.

    Returns:
        A function to call in the driver's thread.
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
