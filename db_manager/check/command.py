"""Checks the configuration and the database of a bot, and says how to fix what is wrong."""

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

_MARKS: Final = {"ok": ("✓", "32"), "warning": ("!", "33"), "problem": ("✗", "31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager check`."""
    configuration.add_config_argument(parser)
    parser.epilog = (
        "Creates no table and does not open the journal. Exit code: 0 if the bot can start, "
        "1 if something is wrong, 2 if there is no configuration."
    )


def run(options: argparse.Namespace) -> int:
    """Check, and print the findings.

    Returns:
        0, or 1 if something is wrong.

    Raises:
        ConfigError: The configuration file does not exist.
    """
    path = configuration.config_file(options)
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
    """Check everything that *path* configures.

    Args:
        path: The file config.toml.

    Yields:
        Each finding as soon as it is known.
    """
    from lifecycle.application import Application  # noqa: PLC0415 -- imports asyncio, which --help does not need

    try:
        config = configuration.read_file(path)
    except ConfigError as error:
        yield Finding("problem", "config", str(error))
        return
    # Go on after a fault, so that two mistakes do not take three runs.
    said: set[str] = set()
    try:
        app = Application.from_config(path)
    except WiringError as error:
        said = set(str(error).splitlines())
        yield Finding("problem", "config", str(error))
    else:
        yield Finding("ok", "config", f"{path} is valid")
        yield Finding("ok", "plugins", ", ".join(map(printable, app.plugins)) or "none")
    yield from _databases(config, path.absolute().parent, said)


def _databases(config: dict[str, Any], folder: Path, said: set[str]) -> Iterable[Finding]:
    """Check each database, and whether their tables are apart."""
    # SQLAlchemy and pydantic are imported here so that `db-manager --help` does not load them.
    import asyncio  # noqa: PLC0415 -- see above

    from db_manager.check.diagnosis import diagnose  # noqa: PLC0415 -- see above
    from db_manager.configured import configured_databases  # noqa: PLC0415 -- see above
    from db_manager.schema import refuse_shared  # noqa: PLC0415 -- see above

    plugins = configured_databases(config, folder)
    for plugin in plugins:
        try:
            section = configuration.plugin_config(config, plugin, folder)
        except WiringError as error:
            if not said.issuperset(str(error).splitlines()):
                yield Finding("problem", plugin.config_section or plugin.name, str(error))
        else:
            yield from asyncio.run(diagnose(section, plugin.metadata))
    try:
        refuse_shared({plugin.name: plugin.metadata for plugin in plugins})
    except ConfigError as error:
        yield Finding("problem", "tables", str(error))
