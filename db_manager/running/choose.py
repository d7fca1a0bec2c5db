"""Selects the runner for the units of an engine, and the timers of an event loop."""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Final

from db_manager.errors import ConfigError
from db_manager.running.plain import Plain
from db_manager.running.port import Runner, Timers

#: The environment variable that selects the runner: `fast` (the default) or `plain`.
VARIABLE: Final = "DB_MANAGER_RUNNER"

_logger = logging.getLogger("db_manager.running")


def choose_runner(driver: str, releases: tuple[str, ...]) -> Callable[[], Runner]:
    """Return a function that makes the runner of an event loop.

    Args:
        driver: SQLAlchemy's name of the engine's driver.
        releases: The releases of the driver whose source was reviewed: none of their code cancels
            the running task during a statement or COMMIT, so the unit's own task may wait for them
            (see `in_place`). Empty when none was reviewed.

    Returns:
        The fast runner. The plain one when the environment asks for it, or when a precondition of
        the fast one is not met; the reason is then logged.

    Raises:
        ConfigError: `DB_MANAGER_RUNNER` has another value.
    """
    asked = os.environ.get(VARIABLE) or "fast"
    if asked not in {"fast", "plain"}:
        raise ConfigError(f"{VARIABLE} is {asked!r}: it must be 'fast' or 'plain'")
    if asked == "plain":
        return Plain
    from db_manager.running.fast.runner import Fast, supported  # noqa: PLC0415 -- the plain runner works without it

    missing = _unread(driver, releases)
    if not supported():
        missing = "SQLAlchemy does not recognise its greenlets"
    if missing:
        _logger.warning("units on %s use the plain runner, which is slower: %s", driver, missing)
        return Plain
    return partial(Fast, in_place=bool(releases))


def _unread(driver: str, read: tuple[str, ...]) -> str:
    """Return what is wrong with the installed release of *driver*; empty if nothing is."""
    if not read:
        return ""
    release = getattr(import_module(driver), "__version__", "of an unknown release")
    if f"{release}.".startswith(tuple(f"{each}." for each in read)):
        return ""
    return f"the COMMIT of {driver} {release} has not been reviewed, only that of {', '.join(read)}"


def choose_timers() -> Timers:
    """Return the timers for deadlines in the running event loop.

    Returns:
        Coarse timers, which are cheap unless they fire. The event loop itself when the environment
        asks for the plain runner.
    """
    if os.environ.get(VARIABLE) == "plain":
        return asyncio.get_running_loop()
    from db_manager.running.fast.timers import CoarseTimers  # noqa: PLC0415 -- as above

    return CoarseTimers.current()
