"""Finds the folder of each plugin's migrations: beside the modules that define its models."""

import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import DeclarativeBase, DeclarativeBaseNoMeta, DeclarativeMeta, Mapper

from db_manager.base import plugin_of
from db_manager.migrations.failure import MigrationError

#: Name of the folder, in the package of the models or in one above it, that has a folder for each
#: plugin.
FOLDER: Final = "migrations"


def folders(metadata: MetaData) -> dict[str, Path]:
    """Return the folder of each plugin's revisions, whether it exists or not; by foreign keys.

    It is beside the models, or beside the package that all of them share, or above that where one
    exists already.

    Args:
        metadata: The tables of a database.

    Raises:
        MigrationError: It cannot be looked at.
    """
    homes = {name: _shared(modules) for name, modules in _modules(metadata).items()}
    ordered = dict.fromkeys(plugin_of(table.name) for table in metadata.sorted_tables)
    return {name: _folder(name, homes[name]) for name in ordered if homes.get(name)}


def wheels(metadata: MetaData) -> dict[str, str]:
    """Return the distribution that a plugin's models were installed with, for those that were.

    Args:
        metadata: The tables of a database.
    """
    found = {}
    for plugin, modules in _modules(metadata).items():
        files = [file for name in sorted(modules) if (file := _file(name)) is not None]
        if name := next(filter(None, map(_distribution, files)), ""):
            found[plugin] = name
    return found


def _modules(metadata: MetaData) -> dict[str, set[str]]:
    """Return the modules in which each plugin's models are."""
    modules: dict[str, set[str]] = {}
    for mapper in _mappers():
        table = mapper.local_table
        if not isinstance(table, Table) or table.metadata is not metadata:
            continue
        if name := plugin_of(table.name):
            modules.setdefault(name, set()).add(mapper.class_.__module__)
    return modules


def _mappers() -> Iterator[Mapper[Any]]:
    """Yield the mappers of all declarative bases; ours is one of them."""
    made_by_a_function = [c for c in type.__subclasses__(object) if isinstance(c, DeclarativeMeta)]
    bases = [*_below(DeclarativeBase), *_below(DeclarativeBaseNoMeta), *made_by_a_function]
    registries = {id(each): each for base in bases if (each := vars(base).get("registry"))}
    for registry in registries.values():
        yield from registry.mappers


def _below(kind: type) -> list[type]:
    found: list[type] = type.__subclasses__(kind)
    return [each for sub in found for each in (sub, *_below(sub))]


def _shared(modules: set[str]) -> list[Path]:
    """Return the folders that all *modules* are in, as packages go, the innermost first."""
    first, *others = [_packages(name) for name in sorted(modules)]
    return [folder for folder in first if all(folder in chain for chain in others)]


def _packages(module: str) -> list[Path]:
    """Return the folder of *module* and those of the packages that it is in, innermost first."""
    if (file := _file(module)) is None:
        return []
    depth = module.count(".") + (file.stem == "__init__")
    return [file.parent, *list(file.parent.parents)[: max(depth - 1, 0)]]


def _file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).absolute()


def _folder(plugin: str, homes: list[Path]) -> Path:
    there = [home / FOLDER / plugin for home in homes]
    try:
        return next((folder for folder in there if folder.is_dir()), there[0])
    except OSError as error:
        what = f"{error.filename}: {error.strerror}: let this account read it"
        raise MigrationError(plugin, "", what) from error


def _distribution(file: Path) -> str:
    """Return the name of the distribution that lists *file*; empty for one's own, in its folder."""
    for folder in file.parents:
        beginning = f"{file.relative_to(folder).as_posix()},"
        for found in distributions(path=[str(folder)]):
            record = found.read_text("RECORD") or ""  # that of an installation in place has no code
            if any(line.startswith(beginning) for line in record.splitlines()):
                return str(found.metadata["Name"])
    return ""
