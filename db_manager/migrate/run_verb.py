"""The arguments of `db-manager migrate`, and what becomes of its errors."""

import argparse
import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lifecycle import config as configuration
from lifecycle.errors import LifecycleError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager migrate`."""
    configuration.add_config_argument(parser)
    parser.add_argument(
        "--plugin", metavar="NAME", help="the plugin of the database, if the bot has several"
    )
    verbs = parser.add_subparsers(title="what to do", dest="verb", metavar="VERB")
    _add_revision(
        verbs.add_parser("revision", help="write the next migration of a plugin's tables")
    )
    upgrade = verbs.add_parser("upgrade", help="apply what is pending")
    upgrade.add_argument("owner", nargs="?", metavar="PLUGIN")
    for verb, meaning in {
        "downgrade": "take revisions back, down to REVISION",
        "stamp": "say that the database is at REVISION, and change nothing else",
    }.items():
        added = verbs.add_parser(verb, help=meaning)
        added.add_argument("owner", metavar="PLUGIN")
        added.add_argument("revision", metavar="REVISION", help="0002, or base: before the first")
    for name in ("upgrade", "downgrade"):
        verbs.choices[name].add_argument("--sql", action="store_true", help="print the SQL only")
    parser.epilog = (
        "Without a verb it says what each plugin is at. Exit code: 0; 1 when something is pending; "
        "2 when it could not do its work."
    )


def _add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("owner", nargs="?", metavar="PLUGIN", help="default: each that changed")
    parser.add_argument("-m", dest="message", default="", metavar="TEXT", help="what it does")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--empty", action="store_true", help="write one without changes")
    kind.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 when one is due"
    )
    parser.add_argument(
        "--scratch",
        default="",
        metavar="URL",
        help="an empty database to build the migrations in; it is emptied again",
    )


def run(options: argparse.Namespace) -> int:
    """Do what the verb says.

    Returns:
        The exit code.

    Raises:
        ConfigError: The configuration does not fit.
        LifecycleError: A migration failed, or the database cannot be reached.
    """
    path = configuration.config_file(options)
    # SQLAlchemy and pydantic are imported here so that `db-manager --help` does not load them.
    from db_manager.migrate.chosen import chosen_databases  # noqa: PLC0415 -- see above
    from db_manager.migrate.verbs import VERBS  # noqa: PLC0415 -- see above

    code = 0
    with _told():
        for one in chosen_databases(path, options.plugin):
            code |= asyncio.run(_until_sigterm(VERBS[options.verb](one, options)))
    return code


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a user can mend into a `LifecycleError`.

    Raises:
        LifecycleError: The text says what is wrong, and what to do.
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 -- see `run`

    from db_manager.dialects.safe_text import connection_text  # noqa: PLC0415 -- see `run`
    from db_manager.errors import DbManagerError  # noqa: PLC0415 -- see `run`

    try:
        yield
    except (DbManagerError, SQLAlchemyError, OSError) as error:
        lines = [str(error)] if isinstance(error, DbManagerError) else [connection_text(error)]
        if isinstance(error, DbManagerError) and error.__cause__ is not None:
            # On this terminal a database may say which row it refuses; in a log it may not.
            said = connection_text(error.__cause__)
            lines += [said] if said.partition(": ")[2] not in lines[0] else []
        raise LifecycleError("\n".join([*lines, *getattr(error, "__notes__", ())])) from error


async def _until_sigterm(work: Coroutine[Any, Any, int]) -> int:
    """Do *work*, and let it clean up when SIGTERM ends it.

    Raises:
        LifecycleError: It did.
    """
    task = asyncio.ensure_future(work)
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise LifecycleError("ended before it was done") from None
