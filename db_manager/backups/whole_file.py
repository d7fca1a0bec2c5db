"""A file that appears only when it is whole: written beside its place, then renamed."""

import glob
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from db_manager.errors import BackupError
from lifecycle.threads import to_its_end


@asynccontextmanager
async def whole_file(path: Path, *, overwrite: bool) -> AsyncIterator[Path]:
    """Yield an empty file of another name, which becomes *path* at the end of the block.

    When the block raises, nothing of it stays. Only the account that made the file can read it.

    Args:
        path: Its name in the end.
        overwrite: Replace a file of this name.

    Yields:
        The file to write.

    Raises:
        BackupError: The file is there already, or the folder takes none.
    """
    part = _begin(path, overwrite=overwrite)
    try:
        yield part
        await to_its_end(partial(_put_in_place, part, path, overwrite=overwrite), "backup")
    finally:
        _remove(part)


def _begin(path: Path, *, overwrite: bool) -> Path:
    if path.is_dir():
        raise BackupError(f"{path} is a folder; name the file")
    if path.exists() and not path.is_file():
        raise BackupError(f"{path} is a device or a pipe; name a file")
    if os.path.lexists(path) and not overwrite:
        raise BackupError(_there_already(path))
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise BackupError(f"{path.parent}: {error.strerror}") from error
    os.close(number)
    return Path(name)


def _remove(part: Path) -> None:
    for left in part.parent.glob(f"{glob.escape(part.name)}*"):  # with what SQLite has beside it
        with suppress(OSError):
            left.unlink()


def _put_in_place(part: Path, path: Path, *, overwrite: bool) -> None:
    _flush(part)
    if overwrite:
        part.replace(path)
    else:
        try:
            os.link(part, path)  # in one step: refused if somebody made the file meanwhile
        except FileExistsError:
            raise BackupError(_there_already(path)) from None
        except OSError:  # the file system has no links
            part.rename(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Let *path*, a file or a folder, reach the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _there_already(path: Path) -> str:
    return f"{path} is there already; name another file, or allow to overwrite it"
