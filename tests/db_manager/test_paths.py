"""Paths in config.toml are relative to config.toml, from whatever folder the bot is started."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from db_manager import DatabaseConfig, DatabasePlugin
from db_manager.check.command import findings
from db_manager.engine.url import database_url
from lifecycle import Application
from lifecycle.errors import PluginFailedError

CONFIG = """
[app]
plugins = ["db_manager"]
journal = "journal.sqlite3"

[database]
database = "bot.sqlite3"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with config.toml; the working directory is another one."""
    folder, elsewhere = tmp_path / "bot", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(elsewhere)
    return folder


@pytest.fixture
def made(folder: Path) -> Path:  # noqa: ARG001 -- it sets the working directory
    """Return a file as a bot has made it in the working directory."""
    Path("bot.sqlite3").touch()
    return Path("bot.sqlite3")


def names(folder: Path) -> set[str]:
    """Return the names of the files in *folder*."""
    return {file.name for file in folder.iterdir()}


async def test_database_and_journal_are_beside_config_toml(folder: Path) -> None:
    """The bot makes both there, and `db-manager check` looks there."""
    async with Application.from_config(folder / "config.toml"):
        pass
    assert names(Path.cwd()) == set()
    assert {"bot.sqlite3", "journal.sqlite3"} <= names(folder)


def test_check_looks_where_the_bot_does(folder: Path) -> None:
    """It names the path beside config.toml."""
    said = [finding.text for finding in findings(folder / "config.toml")]
    assert f"sqlite+aiosqlite, {folder / 'bot.sqlite3'}" in said


async def test_a_file_that_was_made_in_the_working_directory_is_not_left_behind(
    folder: Path, made: Path
) -> None:
    """Such a bot does not start with an empty database, but is told what to move."""
    assert made.name in names(Path.cwd())
    app = Application.from_config(folder / "config.toml")
    with pytest.raises(PluginFailedError) as caught:
        await app.load()
    await app.unload()  # closes the journal
    assert "move it with its -wal and -shm" in str(caught.value.__cause__)
    assert not (folder / "bot.sqlite3").exists()


@pytest.mark.usefixtures("made")
def test_check_tells_of_such_a_file_too(folder: Path) -> None:
    """It is a problem, with the same fix."""
    found = [finding for finding in findings(folder / "config.toml") if finding.level == "problem"]
    assert ["move it with its -wal and -shm" in finding.text for finding in found] == [True]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite+aiosqlite:///a/b.db", "/srv/bot/a/b.db"),
        ("sqlite+aiosqlite:////a/b.db", "/a/b.db"),
        ("sqlite+aiosqlite:///file:b.db?uri=true", "file:/srv/bot/b.db"),
        ("sqlite+aiosqlite://", None),
        ("sqlite+aiosqlite:///:memory:", ":memory:"),
        ("postgresql+asyncpg://localhost/bot", "bot"),
    ],
)
def test_the_path_of_a_url_is_placed_too(url: str, expected: str | None) -> None:
    """Files only, also of a URI; an absolute path stays, and so does the query."""
    placed = DatabaseConfig.model_validate({"url": url}).relative_to(Path("/srv/bot"))
    made = database_url(placed)[0]
    assert made.database == expected
    assert made.query == make_url(url).query


def test_a_certificate_is_placed_too() -> None:
    """`tls_ca` is a path as well."""
    config = DatabaseConfig.model_validate(
        {"driver": "postgresql+asyncpg", "database": "bot", "tls_ca": "ca.pem"}
    )
    assert config.relative_to(Path("/srv")).tls_ca == Path("/srv/ca.pem")


async def test_without_a_file_they_are_relative_to_the_working_directory(folder: Path) -> None:
    """An application whose sections are given in code has no folder of its own."""
    config = {"database": {"database": "bot.sqlite3"}}
    async with Application([DatabasePlugin], config=config):
        pass
    assert "bot.sqlite3" in names(Path.cwd())
    assert "bot.sqlite3" not in names(folder)
