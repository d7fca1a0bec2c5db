"""Says what is wrong with the configuration and the database of a bot, and how to mend it."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from db_manager.check.finding import Finding
from lifecycle import config as configuration
from lifecycle.errors import ConfigError, WiringError
from lifecycle.printable import printable, printable_lines

SECTION: Final = "database"
DATABASE_PLUGIN: Final = "db_manager"
_MARKS: Final = {"ok": ("✓", "32"), "warning": ("!", "33"), "problem": ("✗", "31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager check`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config.toml"),
        metavar="FILE",
        help="default: config.toml",
    )
    parser.epilog = (
        "No table is made, and the journal is not opened. Exit code: 0 when "
        "the bot can start, 1 when something is wrong, 2 when there is no configuration."
    )


def run(options: argparse.Namespace) -> int:
    """Check, and show what was found.

    Returns:
        0, or 1 when something is wrong.

    Raises:
        ConfigError: There is no configuration to check.
    """
    path: Path = options.config
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file; name yours with --config")
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    worst = 0
    for finding in findings(path):
        mark, code = _MARKS[finding.level]
        if colours:
            mark = f"\033[{code}m{mark}\033[0m"
        first, *rest = printable_lines(finding.text).splitlines() or [""]
        below = "".join(f"\n{'':<13}{line}" for line in rest)
        sys.stdout.write(f"{mark} {finding.about:<10} {first}{below}\n")
        worst |= finding.level == "problem"
    return int(worst)


def findings(path: Path) -> Iterable[Finding]:
    """Look at everything that *path* describes.

    Args:
        path: The file config.toml.

    Yields:
        What was found, as soon as it is known.
    """
    from lifecycle.application import Application  # noqa: PLC0415 -- asyncio: not for the help

    try:
        config = configuration.read_file(path)
    except ConfigError as error:
        yield Finding("problem", "config", str(error))
        return
    # Also when the rest is wrong: who has two faults shall not need three tries.
    has_database = SECTION in config
    said: set[str] = set()
    try:
        app = Application.from_config(path)
    except WiringError as error:
        said = set(str(error).splitlines())
        yield Finding("problem", "config", str(error))
    else:
        yield Finding("ok", "config", f"{path} is understood")
        yield Finding("ok", "plugins", ", ".join(map(printable, app.plugins)) or "none")
        has_database = DATABASE_PLUGIN in app.plugins
    if has_database:
        yield from _database(config, said)


def _database(config: dict[str, Any], said: set[str]) -> Iterable[Finding]:
    # SQLAlchemy is imported here and not above, for `db-manager --help`.
    import asyncio  # noqa: PLC0415 -- see above

    from db_manager.check.diagnosis import diagnose  # noqa: PLC0415 -- see above
    from db_manager.plugin import DatabasePlugin  # noqa: PLC0415 -- see above

    try:
        section = configuration.plugin_config(config, DatabasePlugin())
    except WiringError as error:
        if not said.issuperset(str(error).splitlines()):
            yield Finding("problem", "database", str(error))
        return
    yield from asyncio.run(diagnose(section))
