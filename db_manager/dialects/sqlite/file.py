"""Finds a SQLite file, and opens it with settings that are safe for concurrent units."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from db_manager.dialects.sqlite.locks import SLICE
from lifecycle.errors import ConfigError

#: How a name begins that is a URI.
_URI: Final = "file:"


class _Opened(sqlite3.Connection):
    """Keeps the isolation level that SQLAlchemy sets away from the driver.

    The driver would use `isolation_level` to begin transactions by itself; here we begin them.
    """

    #: Hides the driver's. None if SQLAlchemy set AUTOCOMMIT: then no transaction is begun.
    isolation_level: str | None = ""  # type: ignore[assignment]  # a narrower type there


def connector(
    path: str, *, synchronous: str, foreign_keys: str = "ON", **arguments: Any
) -> Callable[[], Any]:
    """Return a function that opens *path* with settings that are safe for concurrent units.

    Args:
        path: File, `:memory:` or a `file:` URI.
        synchronous: `NORMAL` (survives kill -9) or `FULL` (also power loss).
        foreign_keys: `ON`, or `OFF` for a connection that migrates.
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
            connection.execute(f"PRAGMA foreign_keys = {foreign_keys}")
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def path_of(name: str) -> Path:
    """Return the path of a database file.

    Args:
        name: The path, or a `file:` URI.
    """
    if not name.startswith(_URI):
        return Path(name)
    return Path(unquote(name.removeprefix(_URI).partition("?")[0]))


def beside(name: str | None, folder: Path) -> str | None:
    """Return *name* of a database file, as a path that is relative to *folder*.

    Args:
        name: A path, or a `file:` URI; None is a database in memory.
        folder: The folder of config.toml.

    Raises:
        ConfigError: The file is in the working directory, and not in *folder*.
    """
    if not name:
        return name
    path = path_of(name)
    there, here = folder / path, path.absolute()
    if not there.exists() and here.is_file():
        raise ConfigError(
            f"[database] database: {path} is relative to config.toml, and there is no {there}, but "
            f"there is {here}; move it with its -wal and -shm, or name it by its absolute path"
        )
    if not name.startswith(_URI):
        return str(there)
    _, mark, query = name.partition("?")
    return f"{_URI}{quote(str(there))}{mark}{query}"
