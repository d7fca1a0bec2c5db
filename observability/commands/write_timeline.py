"""Writes a run of the bot as an HTML page: one file, which needs no network."""

import argparse
import sys
from pathlib import Path

from lifecycle.errors import ConfigError
from lifecycle.printable import printable
from observability import timeline
from observability.commands.which_run import add_run_arguments, open_journal
from observability.story.runs import find_run, is_live
from observability.story.unit_log import units_path
from observability.story.unit_reader import read_units


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager timeline`."""
    add_run_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("timeline.html"),
        metavar="FILE",
        help="default: timeline.html",
    )


def run(options: argparse.Namespace) -> int:
    """Write the page; see `cli.Command`.

    Raises:
        ConfigError: The file of the page cannot be written.
    """
    with open_journal(options) as (reader, name):
        number = find_run(reader, options.run).run
        live = is_live(reader, number)
        head = find_run(reader, number)
        entries = list(reader.entries(number))
        units = read_units(units_path(reader.path), number)
        try:
            path = timeline.write(entries, options.output, units, run=head, live=live, name=name)
        except OSError as error:
            raise ConfigError(f"{options.output}: cannot be written: {error.strerror}") from error
    sys.stdout.write(f"{printable(str(path))}\n")
    return 0
