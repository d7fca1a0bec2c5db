"""Copies the bot's database into a file, once or every few hours, while the bot works."""

import argparse
import asyncio
import re
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lifecycle import config as configuration
from lifecycle.errors import LifecycleError
from lifecycle.printable import printable

if TYPE_CHECKING:
    from db_manager.config import DatabaseConfig

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager backup`."""
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="the file; with --every or --keep the time is added to its name",
    )
    configuration.add_config_argument(parser)
    parser.add_argument(
        "--every", type=_duration, metavar="TIME", help="repeat until SIGTERM: 30m, 6h, 1d"
    )
    parser.add_argument(
        "--keep", type=_count, metavar="NUMBER", help="then remove all but this many, oldest first"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.epilog = (
        "SQLite becomes a database file. PostgreSQL becomes what pg_dump writes: SQL if PATH ends "
        "in .sql, else a file for pg_restore. Exit code: 0 if the copy was made, 2 if not."
    )


def run(options: argparse.Namespace) -> int:
    """Make the backup, or one after the other until SIGTERM.

    Returns:
        0.

    Raises:
        ConfigError: The configuration file does not exist.
        LifecycleError: The copy, or the first of several, was not made.
    """
    path = configuration.config_file(options)
    # SQLAlchemy is imported here so that `db-manager --help` does not load it.
    from db_manager.plugin import DatabasePlugin  # noqa: PLC0415 -- see above

    folder = path.absolute().parent
    section = configuration.plugin_config(configuration.read_file(path), DatabasePlugin(), folder)
    if options.every is None:
        ended = asyncio.run(_until_sigterm(_make(options, section)))
        if not ended:
            raise LifecycleError("ended by SIGTERM; the copy was not made")
    else:
        asyncio.run(_until_sigterm(_repeat(options, section)))
    return 0


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if seconds < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no time of 1s or more; write 30m, 6h or 1d")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


async def _until_sigterm(work: Coroutine[Any, Any, None]) -> bool:
    """Return True when *work* has ended, and False when SIGTERM ended it."""
    task = asyncio.ensure_future(work)
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait([task])
    if task.cancelled():
        return False
    task.result()
    return True


async def _make(options: argparse.Namespace, config: "DatabaseConfig") -> None:
    from db_manager.backups.backup import backup  # noqa: PLC0415 -- imports SQLAlchemy, see `run`
    from db_manager.backups.series import Series  # noqa: PLC0415 -- as above
    from db_manager.engine.create import create_engine  # noqa: PLC0415 -- as above
    from db_manager.errors import BackupError  # noqa: PLC0415 -- as above

    series = Series(options.path)
    stamped = options.every is not None or options.keep is not None
    file = series.next() if stamped else options.path
    began = time.perf_counter()
    engine = create_engine(config)
    try:
        await backup(engine, file, overwrite=options.overwrite)
    except BackupError as error:
        raise LifecycleError(str(error)) from error
    finally:
        await engine.dispose()
    size, took = file.stat().st_size, time.perf_counter() - began
    _say(f"{file}: {size:,} bytes in {took:.1f} s")
    if options.keep is not None:
        try:
            removed = series.remove_old(options.keep)
        except OSError as error:
            raise LifecycleError(
                f"{file} was made, but an older one stays: {error.filename}: {error.strerror}"
            ) from error
        for old in removed:
            _say(f"{old}: removed")


async def _repeat(options: argparse.Namespace, config: "DatabaseConfig") -> None:
    """Make one backup after the other; only the first may fail."""
    await _make(options, config)
    due = time.monotonic()
    while True:
        due = max(due + options.every, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        try:
            await _make(options, config)
        except (LifecycleError, OSError) as error:
            sys.stderr.write(
                f"db-manager backup: {printable(str(error))}; the next attempt is in "
                f"{options.every:g} s\n"
            )


def _say(line: str) -> None:
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()
