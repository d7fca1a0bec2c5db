"""Reads config.toml: which plugins there are, what they and the observers are told."""

import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec

from lifecycle.errors import ConfigError, WiringError
from lifecycle.events import error_text
from lifecycle.journal import Journal, MemoryJournal
from lifecycle.plugin import Plugin
from lifecycle.sqlite_journal import SqliteJournal
from lifecycle.wiring import nearest

PLUGINS = "db_manager.plugins"
OBSERVERS = "db_manager.observers"

#: Called with the application and its own section, before anything loads; what it returns is
#: called after everything has unloaded.
Observer = Callable[[Any, dict[str, Any]], Callable[[], Awaitable[None] | None]]
Config = Mapping[str, Any]

_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class AppConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `[app]`.

    Args:
        plugins: Entry points or import paths, in the order they shall start where they can.
        journal: File of the journal, relative to config.toml; `memory` keeps none.
        grace: Seconds that a stop may take in all; Docker gives 10, Kubernetes 30.
        drain: Seconds of it that are for updates in flight.
    """

    plugins: tuple[str, ...] = ()
    journal: str | None = None
    grace: _Seconds = 10.0
    drain: _Seconds = 4.0


def read_file(path: Path) -> dict[str, Any]:
    """Return what the file at *path* says.

    Raises:
        ConfigError: It is not there, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "there is no such file; write one with a section [app]"
    except (OSError, ValueError) as error:
        problem = f"{error}"
    raise ConfigError(f"{path}: {problem}")


def app_config(config: Config) -> AppConfig:
    """Return the section `[app]` of *config*.

    Raises:
        ConfigError: A key is unknown or has a wrong value.
    """
    section = _section(config, "app")
    for key in section:
        known = AppConfig.__struct_fields__
        if key not in known:
            raise ConfigError(
                f"[app] {key}: unknown key{nearest(key, known)}; there are: {', '.join(known)}"
            )
    try:
        settings = msgspec.convert(section, AppConfig)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"[app] {where.rstrip('`')}: {what}") from None
    if settings.drain > settings.grace:
        raise ConfigError(
            f"[app] drain: {settings.drain:g} s is more than `grace`, {settings.grace:g} s, "
            f"of which it is a part"
        )
    return settings


def make_journal(name: str, folder: Path) -> Journal:
    """Return the journal that `[app] journal` names.

    Args:
        name: A path; `memory` or nothing keeps the journal in memory.
        folder: What the path is relative to.
    """
    return MemoryJournal() if name in ("", "memory") else SqliteJournal(folder / name)


def check_sections(config: Config, plugins: Iterable[Plugin]) -> list[tuple[Observer, Any]]:
    """Check that every section belongs to somebody.

    Args:
        config: All sections.
        plugins: The plugins.

    Returns:
        The observers that have a section, each with it.

    Raises:
        ConfigError: Nobody reads a section.
    """
    owned = {"app"} | {section_name(plugin) for plugin in plugins}
    entry_points = importlib.metadata.entry_points(group=OBSERVERS)
    known = owned | entry_points.names
    observers = []
    for name in config:
        if name in owned:
            continue
        if name not in known:
            raise ConfigError(
                f"[{name}]: nobody reads this section{nearest(name, known)}; there are: "
                f"{', '.join(sorted(known))}"
            )
        observers.append((entry_points[name].load(), dict(_section(config, name))))
    return observers


def section_name(plugin: Plugin) -> str:
    """Return the name of the section that *plugin* reads."""
    return plugin.config_section or plugin.name


def plugin_config(config: Config, plugin: Plugin) -> Any:
    """Return the configuration of *plugin*, checked by its model.

    Raises:
        ConfigError: The model refuses it. The text never shows a value: it may be a password.
    """
    name = section_name(plugin)
    section = dict(_section(config, name))
    if plugin.config_model is None:
        return section
    try:
        return plugin.config_model.model_validate(section)
    except WiringError:
        raise
    except Exception as error:  # noqa: BLE001 -- any kind of model; raised again below
        problems = _problems(name, error)
    # Outside of the except block: the model's error holds the values, and is not to be carried on.
    raise ConfigError("\n".join(problems))


def _problems(section: str, error: Exception) -> list[str]:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return [f"[{section}] is refused: {type(error).__name__}"]
    return [_problem(section, problem) for problem in errors()]


def _problem(section: str, problem: Mapping[str, Any]) -> str:
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return str(raised)  # it names the culprit and the fix by itself
    key = ".".join(str(part) for part in problem["loc"])
    return f"[{section}] {key}: {problem['msg']}" if key else f"[{section}] {problem['msg']}"


def _section(config: Config, name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"[{name}] is not a section but a {type(section).__name__}")
    return section


def find_plugins(names: Iterable[str], folder: Path) -> list[type[Plugin]]:
    """Return the plugins that *names* stand for.

    Args:
        names: Entry points, else `package.module` with one plugin in it, or
            `package.module:Class`.
        folder: Where config.toml is; modules there can be imported.

    Raises:
        ConfigError: There is no such plugin, or it cannot be imported.
    """
    with _importable(folder):
        return [_find(name) for name in names]


def _find(name: str) -> type[Plugin]:
    entry_points = importlib.metadata.entry_points(group=PLUGINS)
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
            f"imported: {error_text(error)}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise ConfigError(f"[app] plugins: {name!r} is not a subclass of lifecycle.Plugin")
    return found


def _only_plugin(module: ModuleType) -> type[Plugin]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Plugin)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(plugin.__name__ for plugin in found) or "none"
        raise ConfigError(
            f"[app] plugins: module {module.__name__!r} defines not one plugin but {len(found)} "
            f"({names}); write '{module.__name__}:Class'"
        )
    return found[0]


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
