"""The option `--env-file` of every command: variables of a file, as if the environment had them."""

import argparse
import os
from pathlib import Path

from lifecycle.errors import ConfigError


def add_env_file(parser: argparse.ArgumentParser) -> None:
    """Add the option to the *parser* of a command."""
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read variables from this file, as .env; those of the environment go before",
    )


def read_env_file(path: Path) -> None:
    """Add the variables of a file to the environment of this process.

    The rules are those of pydantic-settings and python-dotenv: a variable of the environment goes
    before one of the file, whatever the case of its name, and `${NAME}` is replaced.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read. The text shows nothing of what is in it.
    """
    from dotenv import dotenv_values  # noqa: PLC0415 -- of pydantic-settings; for this option only

    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; pass yours with --env-file")
    try:
        values = dotenv_values(path, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    there = {name.upper() for name in os.environ}
    for name, value in values.items():
        if value is not None and name.upper() not in there:
            os.environ[name] = value
