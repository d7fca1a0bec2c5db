"""What one of the processes that share a config.toml runs, and is told."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lifecycle.config.app import app_config
from lifecycle.config.discovery import find_plugins
from lifecycle.config.journals import make_journal
from lifecycle.config.toml import read_file
from lifecycle.config.validation import section_of
from lifecycle.errors import ConfigError
from lifecycle.journal import Journal

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin


class Process(NamedTuple):
    """The part of a config.toml that is for one process.

    Args:
        plugins: The plugins that it runs.
        config: The sections, without those of plugins that only others run.
        journal: Its journal.
    """

    plugins: "list[type[Plugin]]"
    config: dict[str, Any]
    journal: Journal


def read_process(path: Path, name: str | None, plugins: Iterable[str] | None) -> Process:
    """Read what the process *name* runs.

    Args:
        path: The file config.toml.
        name: Name of the process; None for what environment or file say.
        plugins: Entry points or import paths; None for what environment or file say.

    Raises:
        ConfigError: Something in it does not fit; the text names it and the fix.
    """
    config = read_file(path)
    settings = app_config(config, name)
    names = settings.plugins if plugins is None else tuple(plugins)
    found = find_plugins(names, path.parent)
    for section in _of_others(config, names, path.parent) - {_section(each) for each in found}:
        config.pop(section, None)
    return Process(found, config, make_journal(settings, path.parent))


def _of_others(config: dict[str, Any], names: Iterable[str], folder: Path) -> set[str]:
    """Return the sections of the plugins that the file lists and this process does not run."""
    listed = section_of(config, "app").get("plugins", [])
    others: set[str] = set()
    for name in listed if isinstance(listed, list) else []:
        if name not in names:
            with suppress(ConfigError):  # not installed here: then it has no section either
                others |= {_section(each) for each in find_plugins([name], folder)}
    return others


def _section(plugin: "type[Plugin]") -> str:
    return plugin.config_section or plugin.name
