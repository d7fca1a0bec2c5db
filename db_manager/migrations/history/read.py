"""Reads the files of a history: their ids and their order, out of their text."""

import re
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData

from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history.folders import folders
from db_manager.migrations.history.steps import LONGEST_ID, History, Revision

#: The two assignments of a revision that are read; Alembic's own template writes them so.
_ASSIGNED: Final = re.compile(
    r"^(revision|down_revision)\s*(?::[^=\n]*)?=\s*(\([^)]*\)|[^#\n]*)", re.MULTILINE
)
#: A value as it nearly always is: a parser would cost ten times as much.
_PLAIN: Final = re.compile(r"None|(?P<quote>['\"])(?P<text>[^'\"\\]*)(?P=quote)")
#: Files that Alembic leaves alone, by how their names begin: packages, and those of editors.
_LEFT_ALONE: Final = ("__init__", ".#")


def find(metadata: MetaData, broken: dict[str, MigrationError] | None = None) -> dict[str, History]:
    """Return the histories of the plugins that have tables in *metadata*, by foreign keys.

    A plugin without a folder, or with an empty one, has none: its tables are created when they are
    missing, and never altered.

    Args:
        metadata: The tables of a database, with the models that are mapped to them.
        broken: Gets what is wrong with each broken one, by its plugin.

    Raises:
        MigrationError: A history is broken, and there is no *broken*; the text names the files.
    """
    found = {}
    for plugin, folder in folders(metadata).items():
        try:
            if revisions := read(plugin, folder):
                found[plugin] = History(plugin, folder, revisions)
        except MigrationError as error:
            if broken is None:
                raise
            broken[plugin] = error
    return found


def read(plugin: str, folder: Path) -> tuple[Revision, ...]:
    """Return the revisions in *folder*, the first one first.

    Args:
        plugin: The plugin.
        folder: Where they are.

    Raises:
        MigrationError: A file cannot be read or is no revision, two have one id, one follows what
            is not there, or there is more than one line of them.
    """
    by_id: dict[str, Revision] = {}
    for file in _files(plugin, folder):
        revision = _parsed(plugin, file)
        if (twin := by_id.get(revision.id)) is not None:
            what = (
                f"two files have this id: {twin.file.name} and {file.name}; delete one, or give it "
                f"another revision"
            )
            raise MigrationError(plugin, revision.id, what)
        by_id[revision.id] = revision
    return _in_order(plugin, by_id)


def _files(plugin: str, folder: Path) -> list[Path]:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        what = f"{folder}: {error.strerror}: let this account read it"
        raise MigrationError(plugin, "", what) from error
    return [
        folder / name for name in names if name.endswith(".py") and not name.startswith(_LEFT_ALONE)
    ]


def _parsed(plugin: str, file: Path) -> Revision:
    """Return the revision in *file*.

    Raises:
        MigrationError: It cannot be read, follows several, or its id cannot be one.
    """
    found = _assigned(plugin, file)
    name, after = found.get("revision"), found.get("down_revision")
    if name is None:
        what = (
            f"{file} says no revision, and Alembic runs every file of its folder: write "
            f"revision = {file.stem!r} into it, or move it elsewhere"
        )
        raise MigrationError(plugin, "", what)
    if isinstance(after, tuple):
        names = " and ".join(map(str, after))
        raise MigrationError(
            plugin, name, f"{file.name} follows {names}, and a history is one line"
        )
    if len(name) > LONGEST_ID:
        what = f"{file.name}: an id has at most {LONGEST_ID} characters in the database; shorten it"
        raise MigrationError(plugin, name, what)
    return Revision(name, file, after)


def _assigned(plugin: str, file: Path) -> dict[str, Any]:
    """Return what *file* says of its place.

    Raises:
        MigrationError: It cannot be read, or computes that.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")  # quicker than read_text, of a hundred files
    except OSError as error:
        raise MigrationError(plugin, file.stem, f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        what = f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8"
        raise MigrationError(plugin, file.stem, what) from error
    found: dict[str, Any] = {}
    for name, value in _ASSIGNED.findall(text):
        try:
            plain = _PLAIN.fullmatch(value.strip())
            found[name] = plain["text"] if plain else literal_eval(value.strip())
        except (SyntaxError, ValueError):
            found[name] = 0
        if not _is_right(name, found[name]):
            what = f"{file.name}: {name} must be a string, not {value.strip()!r}"
            raise MigrationError(plugin, file.stem, what)
    return found


def _is_right(name: str, value: object) -> bool:
    if name == "revision":
        return isinstance(value, str) and value != ""
    return value is None or isinstance(value, str | tuple)


def _in_order(plugin: str, by_id: Mapping[str, Revision]) -> tuple[Revision, ...]:
    """Return the revisions, each after the one that it follows.

    Raises:
        MigrationError: They are no line.
    """
    after: dict[str | None, Revision] = {}
    for revision in by_id.values():
        if revision.after is not None and revision.after not in by_id:
            what = f"{revision.file.name} follows {revision.after!r}, which is in no file"
            raise MigrationError(plugin, revision.id, what)
        other = after.setdefault(revision.after, revision)
        if other is not revision:
            raise MigrationError(
                plugin,
                revision.id,
                f"{other.file.name} and {revision.file.name} both follow "
                f"{revision.after or 'nothing'}: in {revision.file.name} set down_revision = "
                f"{other.id!r}",
            )
    line: list[Revision] = []
    while (following := after.pop(line[-1].id if line else None, None)) is not None:
        line.append(following)
    if after:
        circle = next(iter(after.values()))
        raise MigrationError(plugin, circle.id, f"{circle.file.name} follows itself in a circle")
    return tuple(line)
