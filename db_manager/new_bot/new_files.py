"""The files of a new bot: copied from the folder `template`, all of them or none."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from lifecycle.errors import LifecycleError

#: Each file as it will be; nothing is filled in.
TEMPLATE: Final = Path(__file__).with_name("template")
#: Entries of a folder that an error names.
_NAMED: Final = 5


def template_files() -> list[Path]:
    """Return the files of a new bot, relative to its folder."""
    return sorted(
        path.relative_to(TEMPLATE)
        for path in TEMPLATE.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"  # of who has installed us
    )


def write_files(folder: Path) -> None:
    """Copy the files into *folder*, which is made when it is missing.

    After an error there is nothing of them.

    Args:
        folder: An empty folder. Hidden entries (`.git`, `.venv`) and virtual environments may be
            in it.

    Raises:
        LifecycleError: Something is in it already, or it cannot be written.
    """
    folder, files = folder.absolute(), template_files()
    try:
        _check(folder, files)
        with ExitStack() as undo:
            for file in files:
                target = folder / file
                _make_folder(target.parent, undo)
                with target.open("xb") as opened:  # never one that has come meanwhile
                    undo.callback(target.unlink)
                    opened.write((TEMPLATE / file).read_bytes())
            undo.pop_all()
    except OSError as error:
        raise LifecycleError(
            f"{error.filename or folder}: {error.strerror}; nothing was written"
        ) from error


def _check(folder: Path, files: list[Path]) -> None:
    """See to it that there is room for a new bot.

    Raises:
        LifecycleError: There is none.
    """
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        raise LifecycleError(f"{nearest} is no folder; nothing was written")
    if nearest != folder:
        return
    if there := [str(file) for file in files if _exists(folder / file)]:
        raise LifecycleError(
            f"{folder} has these already: {', '.join(there)}; nothing was written. Name another "
            f"folder: db-manager init FOLDER"
        )
    if others := sorted(entry.name for entry in _visible(folder)):
        more = len(others) - _NAMED
        named = ", ".join(others[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise LifecycleError(
            f"{folder} is not empty: {named}; nothing was written. Name another folder: "
            f"db-manager init FOLDER. A bot that is there already is moved: docs/moving.md"
        )


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _visible(folder: Path) -> Iterator[Path]:
    """Yield what makes a folder one that is not empty."""
    for entry in folder.iterdir():
        if not entry.name.startswith(".") and not (entry / "pyvenv.cfg").exists():
            yield entry


def _make_folder(folder: Path, undo: ExitStack) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, undo)
        folder.mkdir()
        undo.callback(folder.rmdir)
