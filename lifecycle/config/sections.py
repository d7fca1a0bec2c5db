"""Every section of config.toml as its owner's model makes it."""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.config.discovery import OBSERVERS, Observer, load_observer
from lifecycle.config.validation import Config, checked
from lifecycle.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin


def read_sections(
    config: Config, plugins: "Iterable[Plugin]", folder: Path | None = None
) -> tuple[dict[str, Any], list[tuple[Observer, Any]]]:
    """Validate every section with its owner's model.

    Args:
        config: All sections.
        plugins: The plugins.
        folder: Where config.toml is: what paths in it are relative to.

    Returns:
        The configuration of each plugin by its name, and the observers that have a section, each
        with its configuration.

    Raises:
        ConfigError: Nobody reads a section, or models refuse some; the text names all faults.
    """
    plugins = list(plugins)
    owned = {"app"} | {section_name(plugin) for plugin in plugins}
    # To find observers is to read what every installed package says of itself.
    entry_points = importlib.metadata.EntryPoints()
    if set(config) - owned:
        entry_points = importlib.metadata.entry_points(group=OBSERVERS)
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
            observer = load_observer(entry_points[name])
            model = getattr(observer, "config_model", None)
            observers.append((observer, checked(config, name, model, folder)))
        except ConfigError as error:
            problems.append(str(error))
    for plugin in plugins:
        try:
            configs[plugin.name] = plugin_config(config, plugin, folder)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return configs, observers


def section_name(plugin: "Plugin") -> str:
    """Return the name of the section that *plugin* reads."""
    return plugin.config_section or plugin.name


def plugin_config(config: Config, plugin: "Plugin", folder: Path | None = None) -> Any:
    """Return the configuration of *plugin*, checked by its model.

    Args:
        config: All sections.
        plugin: The plugin.
        folder: Where config.toml is: what paths in it are relative to.

    Raises:
        ConfigError: The model refuses it. The text shows no value, because it may be a password:
            only a number that is out of range, and what the model's own validators say.
    """
    return checked(config, section_name(plugin), plugin.config_model, folder)
