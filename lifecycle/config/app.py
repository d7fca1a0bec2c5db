"""The section `[app]`: which plugins there are, where the journal is, how long a stop may take."""

import re
import sys
from math import inf
from typing import Any, Final

import msgspec

from lifecycle.config.environment import Kind, environment
from lifecycle.config.validation import Config, out_of_range, section_of, unknown_key
from lifecycle.errors import ConfigError

#: Seconds that a stop may take at most: a day.
LONGEST_STOP: Final = 86400
#: The file of the journal when nothing else is said.
DEFAULT_JOURNAL: Final = "lifecycle.sqlite3"

#: What the environment may say of each key.
_KINDS: Final[dict[str, Kind]] = {
    "plugins": "list",
    "name": "text",
    "journal": "text",
    "grace": "number",
    "drain": "number",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


class AppConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `[app]`.

    Args:
        plugins: Entry points or import paths, in the order to start in, where `requires` allows it.
        name: What tells this process from others with the same config.toml; part of the name of
            the journal's file.
        journal: File of the journal, relative to config.toml; `memory` keeps none.
        grace: Seconds that a stop may take in all; Docker gives 10, Kubernetes 30.
        drain: Seconds of it that are for updates in flight.
    """

    plugins: tuple[str, ...] = ()
    name: str = ""
    journal: str | None = None
    grace: float = 10.0
    drain: float = 4.0


def app_config(config: Config, name: str | None = None) -> AppConfig:
    """Return the section `[app]` of *config*, overridden by `APP__…` of the environment.

    Args:
        config: All sections.
        name: The name of this process; by default what the environment or the section says.

    Raises:
        ConfigError: A key is unknown or has a wrong value.
    """
    known = AppConfig.__struct_fields__
    section: dict[str, Any] = {**section_of(config, "app"), **environment("app", _KINDS)}
    if name is not None:
        section["name"] = name
    if unknown := [unknown_key("app", key, known) for key in section if key not in known]:
        raise ConfigError("\n".join(unknown))
    try:
        settings = msgspec.convert({**section, **_beyond_floats(section)}, AppConfig)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"[app] {where.rstrip('`')}: {what}") from None
    _check(settings, section)
    return settings


def _beyond_floats(section: Config) -> dict[str, float]:
    """Return inf for each integer that no float can hold; msgspec before 0.22 cannot refuse it."""
    largest = sys.float_info.max
    return {k: inf for k, v in section.items() if isinstance(v, int) and abs(v) > largest}


def is_name(text: str) -> bool:
    """Return True when *text* may be the name of a process."""
    return _NAME.fullmatch(text) is not None


def _check(settings: AppConfig, section: Config) -> None:
    if settings.name and not is_name(settings.name):
        raise ConfigError(
            f"[app] name: {settings.name[:40]!r} cannot be part of a file's name; write up to 32 "
            f"letters, digits, _ or -, as 'api' (the key, APP__NAME or the argument `name`)"
        )
    for key in ("grace", "drain"):
        if not 0 <= getattr(settings, key) <= LONGEST_STOP:  # nan is nowhere
            said = out_of_range(section[key], {"ge": 0, "le": LONGEST_STOP})
            raise ConfigError(f"[app] {key}: {said} (seconds)")
    if settings.drain > settings.grace:
        raise ConfigError(
            f"[app] drain: {settings.drain:g} s is more than `grace`, {settings.grace:g} s, "
            f"of which it is a part"
        )
