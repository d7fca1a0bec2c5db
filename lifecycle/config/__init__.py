"""The configuration: config.toml, what its sections say, and the plugins that it names.

Outside of this package only the names below are imported.
"""

from lifecycle.config.app import AppConfig, app_config
from lifecycle.config.argument import add_config_argument, config_file
from lifecycle.config.discovery import find_plugins
from lifecycle.config.environment import Kind, environment
from lifecycle.config.journals import journal_path, make_journal, named_journals
from lifecycle.config.process import read_process
from lifecycle.config.sections import plugin_config, read_sections
from lifecycle.config.toml import read_file

__all__ = [
    "AppConfig",
    "Kind",
    "add_config_argument",
    "app_config",
    "config_file",
    "environment",
    "find_plugins",
    "journal_path",
    "make_journal",
    "named_journals",
    "plugin_config",
    "read_file",
    "read_process",
    "read_sections",
]
