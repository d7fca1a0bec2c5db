"""Reads config.toml: which plugins there are, what they and the observers are told."""

import importlib
import importlib.metadata
import stat
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from lifecycle.error_text import tell_text
from lifecycle.errors import ConfigError, WiringError, nearest
from lifecycle.journal import Journal, MemoryJournal, SqliteJournal

if TYPE_CHECKING:
    from lifecycle.plugin import Plugin

PLUGINS = "db_manager.plugins"
OBSERVERS = "db_manager.observers"

#: Called with the application and its own section, before anything loads; what it returns is
#: called after everything has unloaded. When it has a `config_model`, as a plugin may have, its
#: section is what the model makes of it.
Observer = Callable[[Any, Any], Callable[[], Awaitable[None] | None]]
Config = Mapping[str, Any]

#: Seconds that a stop may take at most: a day.
LONGEST_STOP = 86400
#: What a model says of a number that is out of range, as pydantic calls it.
_OUT_OF_RANGE = frozenset(
    {
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "int_parsing_size",
        "less_than",
        "less_than_equal",
    }
)

#: Bytes of a file that may be a configuration.
_LARGEST: Final = 2**20


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
    grace: float = 10.0
    drain: float = 4.0


def read_file(path: Path) -> dict[str, Any]:
    """Return what the file at *path* says.

    Raises:
        ConfigError: It is not there, is no plain file of a sensible size, or is not TOML.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
            problem = f"is {_kind(status.st_mode)}, not a file; name a file with a section [app]"
        elif status.st_size > _LARGEST:
            problem = f"has {status.st_size} bytes; more than {_LARGEST} are no configuration"
        else:
            return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        problem = "there is no such file; write one with a section [app]"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 at byte {error.start}; save it as UTF-8"
    except RecursionError:
        problem = "is nested too deeply; a section is [name], its keys stand below it"
    except (OSError, ValueError) as error:
        problem = f"{error}"
    raise ConfigError(f"{path}: {problem}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def app_config(config: Config) -> AppConfig:
    """Return the section `[app]` of *config*.

    Raises:
        ConfigError: A key is unknown or has a wrong value.
    """
    section = _section(config, "app")
    known = AppConfig.__struct_fields__
    if unknown := [_unknown_key("app", key, known) for key in section if key not in known]:
        raise ConfigError("\n".join(unknown))
    try:
        settings = msgspec.convert(section, AppConfig)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"[app] {where.rstrip('`')}: {what}") from None
    for key in ("grace", "drain"):
        if not 0 <= getattr(settings, key) <= LONGEST_STOP:  # nan is nowhere
            said = _out_of_range(section[key], 0, LONGEST_STOP)
            raise ConfigError(f"[app] {key}: {said} (seconds)")
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


def read_sections(
    config: Config, plugins: "Iterable[Plugin]"
) -> tuple[dict[str, Any], list[tuple[Observer, Any]]]:
    """Check every section by the model of whom it belongs to.

    Args:
        config: All sections.
        plugins: The plugins.

    Returns:
        The configuration of each plugin by its name, and the observers that have a section, each
        with its configuration.

    Raises:
        ConfigError: Nobody reads a section, or models refuse some; the text names all faults.
    """
    plugins = list(plugins)
    entry_points = importlib.metadata.entry_points(group=OBSERVERS)
    owned = {"app"} | {section_name(plugin) for plugin in plugins}
    known = owned | entry_points.names
    problems = [
        f"[{name}]: nobody reads this section{nearest(name, known)}; there are: "
        f"{', '.join(sorted(known))}"
        for name in config
        if name not in known
    ]
    configs: dict[str, Any] = {}
    observers: list[tuple[Observer, Any]] = []
    for name in config:
        if name in owned or name not in known:
            continue
        try:
            observer = _observer(entry_points[name])
            model = getattr(observer, "config_model", None)
            observers.append((observer, _checked(config, name, model)))
        except ConfigError as error:
            problems.append(str(error))
    for plugin in plugins:
        try:
            configs[plugin.name] = plugin_config(config, plugin)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return configs, observers


def _observer(entry_point: importlib.metadata.EntryPoint) -> Observer:
    try:
        found: Observer = entry_point.load()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"[{entry_point.name}]: what reads it, {entry_point.value}, cannot be imported: "
            f"{tell_text(error)}; mend that, or take the section out"
        ) from error
    return found


def section_name(plugin: "Plugin") -> str:
    """Return the name of the section that *plugin* reads."""
    return plugin.config_section or plugin.name


def plugin_config(config: Config, plugin: "Plugin") -> Any:
    """Return the configuration of *plugin*, checked by its model.

    Raises:
        ConfigError: The model refuses it. The text never shows a value: it may be a password.
    """
    return _checked(config, section_name(plugin), plugin.config_model)


def _checked(config: Config, name: str, model: Any) -> Any:
    """Return a section as its *model*, a pydantic model, makes it; without one as it is."""
    section = dict(_section(config, name))
    if model is None:
        return section
    try:
        return model.model_validate(section)
    except WiringError:
        raise
    except Exception as error:  # noqa: BLE001 -- any kind of model; raised again below
        problems = _problems(name, model, error)
    # Outside of the except block: the model's error holds the values, and is not to be carried on.
    raise ConfigError("\n".join(problems))


def _problems(section: str, model: Any, error: Exception) -> list[str]:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return [f"[{section}] is refused: {type(error).__name__}"]
    fields = getattr(model, "model_fields", {})
    known = {getattr(field, "alias", None) or name: field for name, field in fields.items()}
    return [_problem(section, known, problem) for problem in errors()]


def _problem(section: str, known: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return str(raised)  # it names the culprit and the fix by itself
    key = ".".join(str(part) for part in problem["loc"])
    if problem.get("type") == "extra_forbidden" and len(problem["loc"]) == 1:
        return _unknown_key(section, key, known)
    field = known.get(str(problem["loc"][0])) if key else None
    said = problem["msg"]
    bounds = [_bound(field, name) for name in ("ge", "gt", "le", "lt")]
    if problem.get("type") in _OUT_OF_RANGE and any(each is not None for each in bounds):
        low, above, high, below = bounds
        said = _out_of_range(
            problem.get("input"),
            low if low is not None else above,
            high if high is not None else below,
        )
    if meaning := getattr(field, "description", ""):
        said = f"{said} ({meaning})"
    return f"[{section}] {key}: {said}" if key else f"[{section}] {said}"


def _bound(field: Any, name: str) -> Any:
    found = (getattr(each, name, None) for each in getattr(field, "metadata", ()))
    return next((each for each in found if each is not None), None)


def _out_of_range(value: object, low: Any, high: Any) -> str:
    """Say that a number, the only kind of value that is ever shown, is not from *low* to *high*."""
    if high is None:
        allowed = f"{low} or more"
    else:
        allowed = f"{low} to {high}" if low is not None else f"up to {high}"
    return f"{str(value)[:40]} is out of range: {allowed}"


def _unknown_key(section: str, key: str, known: Iterable[str]) -> str:
    known = list(known)
    return (
        f"[{section}] {key}: unknown key{nearest(key, known)}; there are: "
        f"{', '.join(known) or 'none'}"
    )


def _section(config: Config, name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"[{name}] is not a section but a {type(section).__name__}")
    return section


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
        return [_find(name) for name in names]


def _find(name: str) -> "type[Plugin]":
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
    from lifecycle.plugin import Plugin  # noqa: PLC0415 -- asyncio: who only reads needs none

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
