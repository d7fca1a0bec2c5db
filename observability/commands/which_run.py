"""The arguments that name a journal and one of its runs."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifecycle.config import app_config, read_file
from lifecycle.errors import ConfigError, JournalError
from lifecycle.journal import JournalReader

#: The journal's file when config.toml has no `[app] journal`.
DEFAULT = "lifecycle.sqlite3"


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config.toml"),
        metavar="FILE",
        help="default: config.toml",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--journal` and `--run`."""
    add_config_argument(parser)
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="default: the file in [app] journal"
    )
    parser.add_argument(
        "--run",
        type=_run_number,
        default=None,
        metavar="N",
        help="number of the run, or `last` (default)",
    )


def _run_number(text: str) -> int | None:
    if text == "last":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `last`")
    return int(text)


def journal_path(config: Path) -> Path | None:
    """Return the file of the journal; None when the configuration keeps none.

    Args:
        config: The file config.toml.

    Raises:
        ConfigError: The file cannot be read.
    """
    name = app_config(read_file(config)).journal
    if name in {"", "memory"}:
        return None
    return config.parent / (DEFAULT if name is None else name)


@contextmanager
def open_journal(options: argparse.Namespace) -> Iterator[JournalReader]:
    """Open the journal that *options* name.

    Raises:
        ConfigError: The configuration cannot be read, or keeps no journal.
        JournalError: There is no journal.
    """
    path: Path | None = options.journal or journal_path(options.config)
    if path is None:
        raise ConfigError(
            f"{options.config}: [app] journal keeps no history on disk; set it to a file"
        )
    if not path.is_file():
        raise JournalError(
            f"journal {path}: there is no such file; start the bot once, or name one with --journal"
        )
    with JournalReader(path) as reader:
        yield reader
