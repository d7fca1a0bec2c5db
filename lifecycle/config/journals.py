"""The files of the journals: one for each process that runs on one config.toml."""

from pathlib import Path
from typing import Final

from msgspec.structs import replace

from lifecycle.config.app import DEFAULT_JOURNAL, AppConfig, is_name
from lifecycle.journal import Journal, MemoryJournal, SqliteJournal

#: Of a named journal whose path has no suffix.
SUFFIX: Final = ".sqlite3"


def journal_path(settings: AppConfig, folder: Path) -> Path | None:
    """Return the file of the journal: `lifecycle.api.sqlite3` for a process with the name `api`.

    Args:
        settings: The section `[app]`.
        folder: What its path is relative to.

    Returns:
        The file; None when the journal is kept in memory.
    """
    said = DEFAULT_JOURNAL if settings.journal is None else settings.journal
    if said in {"", "memory"}:
        return None
    path = folder / said
    if not (settings.name and path.name):
        return path
    suffix = path.suffix or SUFFIX  # else the record of units could not tell them apart
    return path.with_name(f"{path.stem}.{settings.name}{suffix}")


def make_journal(settings: AppConfig, folder: Path) -> Journal:
    """Return the journal that the section `[app]` describes.

    Args:
        settings: The section.
        folder: What its path is relative to.
    """
    path = journal_path(settings, folder)
    return MemoryJournal() if path is None else SqliteJournal(path)


def named_journals(settings: AppConfig, folder: Path) -> dict[str, Path]:
    """Return the journals that there are, by the name of their process, "" for none.

    Args:
        settings: The section `[app]`.
        folder: What its path is relative to.
    """
    unnamed = journal_path(replace(settings, name=""), folder)
    if unnamed is None or not unnamed.parent.is_dir():
        return {}
    found = {"": unnamed} if unnamed.is_file() else {}
    begin, end = f"{unnamed.stem}.", unnamed.suffix or SUFFIX
    for path in sorted(unnamed.parent.iterdir()):
        name = path.name.removeprefix(begin).removesuffix(end)
        if path.name == f"{begin}{name}{end}" and is_name(name) and path.is_file():
            found[name] = path
    return found
