"""Picks the runner of an engine's units."""

import logging
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Final

from db_manager.errors import ConfigError
from db_manager.running.plain import Plain
from db_manager.running.port import Runner

#: The variable of the environment that picks it: `fast` (the default) or `plain`.
VARIABLE: Final = "DB_MANAGER_RUNNER"

_logger = logging.getLogger("db_manager.running")


def choose_runner(driver: str, release: str) -> Callable[[], Runner]:
    """Return what makes the runner of an event loop.

    Args:
        driver: SQLAlchemy's name of the engine's driver.
        release: Of the driver, whose source was read: nothing on the way of a COMMIT cancels the
            running task, which may wait for it (see `in_place`). Empty when none was.

    Returns:
        The fast runner, unless the environment asks for the plain one, or something is not there
        that the fast one needs; then a line of the log says what.

    Raises:
        ConfigError: `DB_MANAGER_RUNNER` is something else.
    """
    asked = os.environ.get(VARIABLE) or "fast"
    if asked not in {"fast", "plain"}:
        raise ConfigError(f"{VARIABLE} is {asked!r}: it takes 'fast' or 'plain'")
    if asked == "plain":
        return Plain
    from db_manager.running.fast.runner import Fast, supported  # noqa: PLC0415 -- the plain one works without it

    missing = _unread(driver, release)
    if not supported():
        missing = "SQLAlchemy does not wait in its greenlets"
    if missing:
        _logger.warning("units on %s have the plain runner, which is slower: %s", driver, missing)
        return Plain
    return partial(Fast, in_place=bool(release))


def _unread(driver: str, read: str) -> str:
    """Return what is wrong with the release of *driver*, if anything."""
    if not read:
        return ""
    release = getattr(import_module(driver), "__version__", "of an unknown release")
    if f"{release}.".startswith(f"{read}."):
        return ""
    return f"how {driver} {release} waits for COMMIT is not known, only how {read} does"
