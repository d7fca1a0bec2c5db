"""The argument `--config` of a command, and the file that it names."""

import argparse
from pathlib import Path

from lifecycle.errors import ConfigError


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config` to *parser*."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config.toml"),
        metavar="FILE",
        help="default: config.toml",
    )


def config_file(options: argparse.Namespace) -> Path:
    """Return the file that `--config` names.

    Args:
        options: The arguments, as parsed.

    Raises:
        ConfigError: There is no such file.
    """
    path: Path = options.config
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file; pass yours with --config")
    return path
