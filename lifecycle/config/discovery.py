"""Finds plugins and observers by name: entry points, or modules beside config.toml."""

import importlib
import importlib.metadata
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from lifecycle.error_text import tell_text
from lifecycle.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin

PLUGINS = "db_manager.plugins"
OBSERVERS = "db_manager.observers"

#: Called with the application and its own section, before anything loads; what it returns is
#: called after everything has unloaded. When it has a `config_model`, as a plugin may have, its
#: section is what the model makes of it.
Observer = Callable[[Any, Any], Callable[[], Awaitable[None] | None]]


def load_observer(entry_point: importlib.metadata.EntryPoint) -> Observer:
    """Return the observer that an entry point names.

    Raises:
        ConfigError: It cannot be imported.
    """
    try:
        found: Observer = entry_point.load()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"[{entry_point.name}]: what reads it, {entry_point.value}, cannot be imported: "
            f"{tell_text(error)}; fix that, or remove the section"
        ) from error
    return found


def find_plugins(names: Iterable[str], folder: Path) -> "list[type[Plugin]]":
    """Return the plugins that *names* stand for.

    Args:
        names: Entry points, else `package.module` with one plugin in it, or
            `package.module:Class`.
        folder: Where config.toml is; modules there can be imported.

    Raises:
        ConfigError: There is no such plugin, or it cannot be imported.
    """
    with _importable(folder):
        entry_points = importlib.metadata.entry_points(group=PLUGINS)
        return [_find(name, entry_points) for name in names]


def _find(name: str, entry_points: importlib.metadata.EntryPoints) -> "type[Plugin]":
    try:
        if name in entry_points.names:
            found = entry_points[name].load()
        else:
            path, _, attribute = name.partition(":")
            module = importlib.import_module(path)
            found = getattr(module, attribute) if attribute else _only_plugin(module)
    except ConfigError:
        raise
    except Exception as error:
        hint = nearest(name, entry_points.names)
        raise ConfigError(
            f"[app] plugins: {name!r} is neither an entry point of {PLUGINS!r}{hint} nor can it be "
            f"imported: {tell_text(error)}"
        ) from error
    if not _is_plugin(found):
        raise ConfigError(f"[app] plugins: {name!r} is not a subclass of lifecycle.Plugin")
    return found


def _only_plugin(module: ModuleType) -> "type[Plugin]":
    found = [
        value
        for value in vars(module).values()
        if _is_plugin(value) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(plugin.__name__ for plugin in found) or "none"
        raise ConfigError(
            f"[app] plugins: module {module.__name__!r} defines not one plugin but {len(found)} "
            f"({names}); write '{module.__name__}:Class'"
        )
    return found[0]


def _is_plugin(value: object) -> "TypeGuard[type[Plugin]]":
    from lifecycle.plugins.plugin import Plugin  # noqa: PLC0415 -- asyncio: who only reads needs none

    return isinstance(value, type) and issubclass(value, Plugin)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    path = str(folder)
    added = path not in sys.path
    if added:
        sys.path.insert(0, path)
    try:
        yield
    finally:
        if added and path in sys.path:
            sys.path.remove(path)
