"""Leads what reads the configuration to a database of a sandbox, and to no other."""

import os
from typing import Final
from unittest.mock import patch

from sqlalchemy.engine import URL

from db_manager.config import FILE_SUFFIX, FIRST_SECTION, DatabaseConfig, env_prefix

#: Keys of [database] that locate the database; in a sandbox they are replaced by its URL.
_WHERE: Final = ("DRIVER", "USER", "PASSWORD", "HOST", "PORT", "DATABASE", "URL", "REPLICA")


def lead(section: str, url: URL) -> None:
    """Let the environment variables of *section* lead to *url*, and to no replica.

    Args:
        section: A section of config.toml.
        url: Where its database is.
    """
    prefix = env_prefix(section)
    for key in _WHERE:
        for name in (prefix + key, prefix + key + FILE_SUFFIX):
            os.environ.pop(name, None)
    os.environ[f"{prefix}URL"] = url.render_as_string(hide_password=False)
    os.environ[f"{prefix}REPLICA"] = ""


def config_at(url: URL) -> DatabaseConfig:
    """Return the section of a database that is at *url*, whatever the environment says.

    Args:
        url: Where it is.
    """
    with patch.dict(os.environ):
        lead(FIRST_SECTION, url)
        return DatabaseConfig()
