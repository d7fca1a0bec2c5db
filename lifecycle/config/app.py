"""The section `[app]`: which plugins there are, where the journal is, how long a stop may take."""

from pathlib import Path
from typing import Final

import msgspec

from lifecycle.config.validation import Config, out_of_range, section_of, unknown_key
from lifecycle.errors import ConfigError
from lifecycle.journal import Journal, MemoryJournal, SqliteJournal

#: Seconds that a stop may take at most: a day.
LONGEST_STOP: Final = 86400


class AppConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `[app]`.

    Args:
        plugins: Entry points or import paths, in the order to start in, where `requires` allows it.
        journal: File of the journal, relative to config.toml; `memory` keeps none.
        grace: Seconds that a stop may take in all; Docker gives 10, Kubernetes 30.
        drain: Seconds of it that are for updates in flight.
    """

    plugins: tuple[str, ...] = ()
    journal: str | None = None
    grace: float = 10.0
    drain: float = 4.0


def app_config(config: Config) -> AppConfig:
    """Return the section `[app]` of *config*.

    Raises:
        ConfigError: A key is unknown or has a wrong value.
    """
    section = section_of(config, "app")
    known = AppConfig.__struct_fields__
    if unknown := [unknown_key("app", key, known) for key in section if key not in known]:
        raise ConfigError("\n".join(unknown))
    try:
        settings = msgspec.convert(section, AppConfig)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"[app] {where.rstrip('`')}: {what}") from None
    for key in ("grace", "drain"):
        if not 0 <= getattr(settings, key) <= LONGEST_STOP:  # nan is nowhere
            said = out_of_range(section[key], {"ge": 0, "le": LONGEST_STOP})
            raise ConfigError(f"[app] {key}: {said} (seconds)")
    if settings.drain > settings.grace:
        raise ConfigError(
            f"[app] drain: {settings.drain:g} s is more than `grace`, {settings.grace:g} s, "
            f"of which it is a part"
        )
    return settings


def make_journal(name: str, folder: Path) -> Journal:
    """Return the journal that `[app] journal` names.

    Args:
        name: A path; `memory` or nothing keeps the journal in memory.
        folder: What the path is relative to.
    """
    return MemoryJournal() if name in ("", "memory") else SqliteJournal(folder / name)
