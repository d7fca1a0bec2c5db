"""The configuration: config.toml, what its sections say, and the plugins that it names.

Outside of this package only the names below are imported.
"""

from lifecycle.config.app import AppConfig, app_config, make_journal
from lifecycle.config.discovery import find_plugins
from lifecycle.config.sections import plugin_config, read_sections
from lifecycle.config.toml import read_file

__all__ = [
    "AppConfig",
    "app_config",
    "find_plugins",
    "make_journal",
    "plugin_config",
    "read_file",
    "read_sections",
]
