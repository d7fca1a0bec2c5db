"""The arguments that name a journal and one of its runs."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lifecycle.config import (
    add_config_argument,
    app_config,
    journal_path,
    named_journals,
    read_file,
)
from lifecycle.errors import ConfigError, JournalError
from lifecycle.journal import JournalReader
from lifecycle.printable import printable


class Found(NamedTuple):
    """A journal that the arguments name.

    Args:
        path: Its file.
        name: Name of the process that writes it; empty when it has none, or nobody said it.
    """

    path: Path
    name: str = ""


def add_name_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--name`."""
    parser.add_argument(
        "--name",
        dest="process",
        metavar="NAME",
        help="the process, of several with one config.toml; default: [app] name",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--name`, `--journal` and `--run`."""
    add_config_argument(parser)
    which = parser.add_mutually_exclusive_group()
    add_name_argument(which)
    which.add_argument(
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


def find_journal(options: argparse.Namespace) -> Found | None:
    """Return the journal of the process that *options* name; None when it keeps none.

    Without `--name`, and without one in the configuration, it is the only one that there is. What
    else is there is told on the standard error.

    Args:
        options: With `config` and `process`.

    Raises:
        ConfigError: The configuration cannot be read.
        JournalError: That process has no journal.
    """
    folder = options.config.parent
    settings = app_config(read_file(options.config), options.process)
    path = journal_path(settings, folder)
    if path is None:
        return None
    there = named_journals(settings, folder)
    asked = options.process is not None or settings.name
    if not asked and len(there) == 1:
        [(name, path)] = there.items()
        return Found(path, name)
    others = ", ".join(_called(name) for name in there if name != settings.name)
    if not path.is_file():
        hint = f"; there are journals of {others}: choose with --name" if others else ""
        raise JournalError(
            f"journal {path}: there is no such file{hint}; start the bot once, or name one with "
            f"--journal"
        )
    if others and not asked:
        sys.stderr.write(f"This is the process without a name; also there: {others} (--name)\n")
    return Found(path, settings.name)


def _called(name: str) -> str:
    return printable(name) or "the process without a name"


@contextmanager
def open_journal(options: argparse.Namespace) -> Iterator[tuple[JournalReader, str]]:
    """Open the journal that *options* name.

    Yields:
        Its reader, and the name of the process that writes it.

    Raises:
        ConfigError: The configuration cannot be read, or keeps no journal.
        JournalError: There is no journal.
    """
    found = Found(options.journal) if options.journal else find_journal(options)
    if found is None:
        raise ConfigError(
            f"{options.config}: [app] journal keeps no history on disk; set it to a file"
        )
    if not found.path.is_file():
        raise JournalError(
            f"journal {found.path}: there is no such file; start the bot once, or name one with "
            f"--journal"
        )
    with JournalReader(found.path) as reader:
        yield reader, found.name
