"""The arguments of `db-manager delivery`, and nothing that takes long to import."""

import argparse
from typing import Final

from lifecycle import config as configuration
from lifecycle.errors import LifecycleError

#: Rows of a list that are shown, unless `--limit` says otherwise.
_SHOWN: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager delivery`."""
    parser.add_argument(
        "verb",
        nargs="?",
        choices=("retry", "drop", "pause", "resume", "cancel"),
        help="retry opens what was given up again, drop forgets it; the others are for broadcasts",
    )
    parser.add_argument(
        "which",
        nargs="*",
        metavar="ID",
        help="m17 is a message, u2041 an update, b3 a broadcast; or all that are dead, unknown, "
        "expired, parked",
    )
    configuration.add_config_argument(parser)
    parser.add_argument(
        "--limit",
        type=_count,
        default=_SHOWN,
        metavar="NUMBER",
        help=f"rows of a list that are shown; default: {_SHOWN}",
    )
    parser.add_argument(
        "--payloads", action="store_true", help="show what users and the bot have written, too"
    )
    parser.epilog = (
        "Without a verb it changes nothing. Exit code: 0; 1 when something is parked, dead or "
        "unknown; 2 when it could not do its work, and then nothing has changed."
    )


def run(options: argparse.Namespace) -> int:
    """Show, or do what the verb says.

    Returns:
        The exit code.

    Raises:
        ConfigError: The configuration does not fit.
        LifecycleError: An id is wrong, the tables are not there, or the database is not.
    """
    if options.verb is not None and not options.which:
        raise LifecycleError(
            f"{options.verb} what? Name ids that `db-manager delivery` shows, as m17, u2041 or b3; "
            f"or all that are dead, unknown, expired or parked"
        )
    path = configuration.config_file(options)
    # SQLAlchemy and pydantic are imported here so that `db-manager --help` does not load them.
    from db_manager.undelivered.on_database import do  # noqa: PLC0415 -- see above

    return do(path, options)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)
