"""Makes one backup: the database of an engine, copied into a file."""

import os
import sqlite3
from os import PathLike
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.backups.whole_file import whole_file
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_of
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.reaching import access_of
from db_manager.errors import BackupError, ManagerClosedError


async def backup(
    engine: AsyncEngine, path: str | PathLike[str], *, overwrite: bool = False
) -> None:
    """Copy the database of *engine* into a file, while others write to it.

    The copy shows one moment of the database. SQLite is copied with its backup API, into a database
    file; PostgreSQL with `pg_dump`, which has to be installed: into SQL if *path* ends in `.sql`,
    else into a file for `pg_restore`. The file appears only when it is whole, and only the account
    that made it can read it.

    Added in 0.2.

    Args:
        engine: The engine, `db_manager:engine` or one of your own.
        path: The file.
        overwrite: Replace a file that is there.

    Raises:
        BackupError: The copy was not made; the text says why, and how to fix it.
    """
    file = Path(path)
    dialect = dialect_of(engine.dialect)
    access = access_of(engine)
    try:
        _check(dialect, dialect.file(access.url), file)
        async with whole_file(file, overwrite=overwrite) as part:
            await dialect.back_up(engine, access, part, file.suffix)
    # ValueError: no file can have this name.
    except (OSError, ValueError, SQLAlchemyError, sqlite3.Error, ManagerClosedError) as error:
        raise BackupError(f"{file} was not made: {_reason(error)}") from error


def _check(dialect: Dialect, source: Path | None, file: Path) -> None:
    if source is not None:
        if not source.is_file():
            raise BackupError(f"there is no database {source}")
        own = (source, *_beside(dialect, source.resolve()))
        if any(_is_same(file, each) for each in own):
            raise BackupError(f"{file} is the database itself; name another file")
    for left in _beside(dialect, file):
        if left.exists():
            raise BackupError(
                f"{left} is there: it belongs to an older {file.name}, and would become part of "
                f"the copy; remove it if nobody has that file open, or name another file"
            )


def _is_same(file: Path, other: Path) -> bool:
    if file.exists() and other.exists():
        return file.samefile(other)
    return os.path.realpath(file) == os.path.realpath(other)


def _beside(dialect: Dialect, file: Path) -> list[Path]:
    """Return the files in which a database in *file* keeps what is not in it yet."""
    return [file.with_name(f"{file.name}{ending}") for ending in dialect.beside_file]


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ManagerClosedError):
        return str(error)
    return connection_text(error)
