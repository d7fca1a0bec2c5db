"""The history of a plugin's tables: a folder of Alembic revisions, read without Alembic."""

import re
import sys
from ast import literal_eval
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData, Table

from db_manager.base import Base, plugin_of
from db_manager.migrations.failure import MigrationError

#: Name of the folder, in the package of the models or in one above it, that has a folder for each
#: plugin.
FOLDER: Final = "migrations"
#: Ends the name of the table in which Alembic keeps what a plugin's tables are at.
VERSION_TABLE: Final = "alembic_version"
#: Characters of an id: Alembic's column.
LONGEST_ID: Final = 32
#: The two assignments of a revision that are read; Alembic's own template writes them so.
_ASSIGNED: Final = re.compile(
    r"^(revision|down_revision)\s*(?::[^=\n]*)?=\s*(\([^)]*\)|[^#\n]*)", re.MULTILINE
)


@dataclass(frozen=True)
class Revision:
    """One step of a history.

    Args:
        id: Its name; new ones are called as their file.
        file: The file.
        after: The one that it follows; None for the first one.
    """

    id: str
    file: Path
    after: str | None


@dataclass(frozen=True)
class History:
    """The migrations of one plugin.

    Args:
        plugin: Name of the plugin: what its tables begin with.
        folder: Where its revisions are.
        revisions: All of them, the first one first.
    """

    plugin: str
    folder: Path
    revisions: tuple[Revision, ...]

    @property
    def version_table(self) -> str:
        """Name of the table that says what the database is at."""
        return version_table(self.plugin)

    @property
    def head(self) -> str:
        """The last revision."""
        return self.revisions[-1].id

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of all revisions, the first one first."""
        return tuple(revision.id for revision in self.revisions)

    def pending(self, at: str | None) -> tuple[str, ...]:
        """Return what a database that is at *at* lacks; nothing when *at* is unknown here.

        Args:
            at: A revision; None is a database without any.
        """
        if at is None:
            return self.ids
        return self.ids[self.ids.index(at) + 1 :] if at in self.ids else ()

    def position(self, revision: str) -> int:
        """Return the place of a revision in the line; one that is not in it comes after all.

        Args:
            revision: Its id; empty for none, which comes before all.
        """
        line = ("", *self.ids)
        return line.index(revision) if revision in line else len(line)

    def next_id(self, message: str) -> str:
        """Return the id of a revision that follows the last one: a number and words.

        Args:
            message: What it does.
        """
        words = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_") or "change"
        return f"{len(self.revisions) + 1:04}_{words}"[:LONGEST_ID].rstrip("_")

    def find(self, name: str) -> str:
        """Return the id that *name* stands for: it, or the only one that begins with it.

        Args:
            name: An id, or its beginning: `0002`; `head` is the last one, `base` is before all.

        Raises:
            MigrationError: No revision is called so, or several are.
        """
        if name in {"head", "base"}:
            return self.head if name == "head" else name
        found = [each for each in self.ids if each == name] or [
            each for each in self.ids if each.startswith(name)
        ]
        if len(found) != 1:
            which = "no revision" if not found else "more than one revision"
            raise MigrationError(
                self.plugin, name, f"{which} begins so; there are {', '.join(self.ids)}"
            )
        return found[0]


def version_table(plugin: str) -> str:
    """Return the name of the table that says what the tables of *plugin* are at."""
    return f"{plugin}__{VERSION_TABLE}"


def find(metadata: MetaData, order: Iterable[str] = ()) -> dict[str, History]:
    """Return the histories of the plugins that have tables in *metadata*.

    A plugin without a folder, or with an empty one, has none: its tables are created when they are
    missing, and never altered.

    Args:
        metadata: The tables of a database, with the models that are mapped to them.
        order: Names of plugins in the order of their start; others follow by foreign keys.

    Raises:
        MigrationError: A history is broken; the text names the files.
    """
    found = {}
    for plugin, folder in folders(metadata).items():
        if revisions := read(plugin, folder):
            found[plugin] = History(plugin, folder, revisions)
    wanted = [name for name in order if name in found]
    return {name: found[name] for name in dict.fromkeys([*wanted, *found])}


def folders(metadata: MetaData) -> dict[str, Path]:
    """Return the folder of each plugin's revisions, whether it exists or not; by foreign keys.

    It is beside the models, or beside the package that all of them share, or above that where one
    exists already.

    Args:
        metadata: The tables of a database.
    """
    homes = _homes(metadata)
    ordered = dict.fromkeys(plugin_of(table.name) for table in metadata.sorted_tables)
    return {name: _folder(name, homes[name]) for name in ordered if name in homes}


def _homes(metadata: MetaData) -> dict[str, list[Path]]:
    """Return the folders, the innermost first, in which each plugin's migrations may be."""
    modules: dict[str, set[str]] = {}
    for mapper in Base.registry.mappers:
        table = mapper.local_table
        if not isinstance(table, Table) or table.metadata is not metadata:
            continue
        if name := plugin_of(table.name):
            modules.setdefault(name, set()).add(mapper.class_.__module__)
    return {name: homes for name, where in modules.items() if (homes := _shared(where))}


def _shared(modules: set[str]) -> list[Path]:
    """Return the folders that all *modules* are in, as packages go, the innermost first."""
    chains = [_packages(name) for name in sorted(modules)]
    first, *others = chains
    return [folder for folder in first if all(folder in chain for chain in others)]


def _packages(module: str) -> list[Path]:
    """Return the folder of *module* and those of the packages that it is in, innermost first."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return []
    here = Path(file).absolute().parent
    depth = module.count(".") + (Path(file).stem == "__init__")
    return [here, *list(here.parents)[: max(depth - 1, 0)]]


def _folder(plugin: str, homes: list[Path]) -> Path:
    there = [home / FOLDER / plugin for home in homes]
    return next((folder for folder in there if folder.is_dir()), there[0])


def read(plugin: str, folder: Path) -> tuple[Revision, ...]:
    """Return the revisions in *folder*, the first one first.

    Args:
        plugin: The plugin.
        folder: Where they are.

    Raises:
        MigrationError: Two have one id, one follows what is not there, or there is more than one
            line of them.
    """
    by_id: dict[str, Revision] = {}
    for file in sorted(folder.glob("*.py")):
        revision = _parsed(plugin, file)
        if revision is None:
            continue
        if (twin := by_id.get(revision.id)) is not None:
            raise MigrationError(
                plugin, revision.id, f"two files have this id: {twin.file.name} and {file.name}"
            )
        by_id[revision.id] = revision
    return _in_order(plugin, by_id)


def _parsed(plugin: str, file: Path) -> Revision | None:
    """Return the revision in *file*; None for a file that is none.

    Raises:
        MigrationError: It follows several, or computes its id.
    """
    found: dict[str, Any] = {}
    for name, value in _ASSIGNED.findall(file.read_text(encoding="utf-8")):
        try:
            found[name] = literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise MigrationError(
                plugin, file.stem, f"{file.name}: {name} must be a string, not {value.strip()!r}"
            ) from None
    if "revision" not in found:
        return None
    after = found.get("down_revision")
    if isinstance(after, tuple):
        names = " and ".join(map(str, after))
        raise MigrationError(
            plugin, found["revision"], f"{file.name} follows {names}, and a history is one line"
        )
    return Revision(found["revision"], file, after)


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
