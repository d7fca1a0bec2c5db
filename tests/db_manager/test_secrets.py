"""A canary password in every place of the configuration, searched in everything people can see."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application
from lifecycle.journal import MemoryJournal
from observability import logs
from observability.testing import EventRecorder

CANARY = "c4n4ryP4ssw0rd"

Place = Callable[[URL, Path, pytest.MonkeyPatch], dict[str, Any]]


def in_key(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into the key password."""
    return {"url": url.render_as_string(), "password": CANARY}


def in_url(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into the URL."""
    return {"url": url.set(password=CANARY).render_as_string(hide_password=False)}


def in_variable(url: URL, _folder: Path, environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into the environment."""
    environment.setenv("DATABASE__PASSWORD", CANARY)
    return {"url": url.render_as_string()}


def in_url_variable(url: URL, _folder: Path, environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a URL with it into the environment."""
    environment.setenv(
        "DATABASE__URL", url.set(password=CANARY).render_as_string(hide_password=False)
    )
    return {}


def in_file(url: URL, folder: Path, environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into a file."""
    (folder / "secret").write_text(CANARY)
    environment.setenv("DATABASE__PASSWORD_FILE", str(folder / "secret"))
    return {"url": url.render_as_string()}


def in_connect_args(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into what is passed to the driver."""
    return {"url": url.render_as_string(), "connect_args": {"password": CANARY}}


def in_query(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it where it does not belong."""
    return {"url": url.set(query={"password": CANARY}).render_as_string()}


def in_bad_url(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into a URL that cannot be read."""
    return {"url": f"{url.drivername}://bot:a@{CANARY}@{url.host}:{url.port}/x"}


def in_bad_type(url: URL, _folder: Path, _environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put it into a key of another type."""
    return {"url": url.render_as_string(), "connect_args": CANARY, "port": CANARY, "pw": CANARY}


GOOD = [in_key, in_url, in_variable, in_url_variable, in_file, in_connect_args]
BAD = [in_query, in_bad_url, in_bad_type]


class Seen:
    """Everything that people can see."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, *things: object) -> None:
        """Keep what things are called, and how errors are printed."""
        for thing in things:
            self.texts += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)

    def assert_clean(self) -> None:
        """Assert that the canary is nowhere."""
        found = [line for line in self.texts if CANARY in line]
        assert not found, f"{len(found)} places, the first: {found[0][:500]}"
        assert self.texts


async def look_at(section: dict[str, Any], seen: Seen) -> None:
    """Start a bot with *section*, work and fail in it, and keep everything it says."""
    journal = MemoryJournal()
    try:
        app = Application(
            [DatabasePlugin],
            config={"app": {}, "database": section},
            journal=journal,
        )
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is looked at
        seen.add(error)
        return
    seen.add(app, app.plugins["db_manager"])
    with EventRecorder(app.bus) as events, logs.attach(app.bus):
        try:
            async with app:
                engine = app.services["db_manager:engine"]
                factory = app.services["db_manager:uow_factory"]
                seen.add(engine, engine.url, engine.pool, factory, app.services, app.probes)
                seen.add(tuple(engine.url), engine.url.render_as_string(hide_password=False))
                seen.add(await app.health())
                async with factory() as uow:
                    seen.add(uow, uow.session, uow.connection)
                    await uow.session.execute(text("SELEKT 1"))
        except Exception as error:  # noqa: BLE001 -- as above
            seen.add(error)
    seen.add(*[event.as_dict() for event in events.events], *events.events)
    seen.add(*journal.entries())


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("place", [*GOOD, *BAD])
async def test_a_password_is_shown_nowhere(
    driver: str,
    place: Place,
    postgres_database: URL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Wherever the password stands, no log, event, error, repr or traceback has it."""
    caplog.set_level(logging.DEBUG)
    url = postgres_database.set(drivername=f"postgresql+{driver}", password=None)
    unreachable = url.set(host="127.0.0.1", port=1)
    unknown = url.set(username="no_such_role")
    seen = Seen()
    for target in (url, unreachable, unknown):
        with monkeypatch.context() as environment:
            section = place(target, tmp_path, environment)
            if target is url and postgres_database.password and place in GOOD:
                continue  # this server checks passwords: the canary is not let in
            await look_at(section, seen)
    seen.add(*(record.getMessage() for record in caplog.records))
    seen.add(*capfd.readouterr(), caplog.text)
    seen.assert_clean()


async def test_the_search_finds_what_is_shown() -> None:
    """The same search finds a password that an error or an object does show."""
    for shown in (ValueError(CANARY), DatabaseConfig(user=CANARY), {"password": CANARY}):
        seen = Seen()
        seen.add(shown)
        with pytest.raises(AssertionError, match="the first"):
            seen.assert_clean()
    await asyncio.sleep(0)
