"""The databases that a config.toml names: the plugins, not yet loaded."""

from pathlib import Path
from typing import Any

from db_manager.config import FIRST_SECTION
from db_manager.plugin import DatabasePlugin
from lifecycle import config as configuration
from lifecycle.errors import WiringError


def configured_databases(config: dict[str, Any], folder: Path) -> list[DatabasePlugin]:
    """Return the plugins of databases; the first one also when only its section is there.

    Args:
        config: The sections of config.toml.
        folder: Its folder.
    """
    try:
        named = configuration.app_config(config).plugins
        found = configuration.find_plugins(named, folder)
    except WiringError:
        found = []
    databases = [plugin for plugin in found if issubclass(plugin, DatabasePlugin)]
    if not databases and FIRST_SECTION in config:
        databases = [DatabasePlugin]
    return [plugin() for plugin in databases]
