"""`db-manager check` of a bot with several databases and a replica."""

import io
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.engine import URL
from support.accounting import connected
from support.postgres import Databases

from db_manager.check import command as check
from db_manager.check.diagnosis import diagnose
from db_manager.check.finding import Finding
from db_manager.config import DatabaseConfig

METADATA = MetaData()
Table("check_several__thing", METADATA, Column("id", Integer, primary_key=True))

PLUGINS = """
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base, DatabasePlugin


class OtherBase(Base):
    __abstract__ = True
    metadata = MetaData()


class Thing(OtherBase):
    __tablename__ = "other{suffix}__thing"
    id: Mapped[int] = mapped_column(primary_key=True)


class Other(DatabasePlugin):
    name = "other"
    metadata = OtherBase.metadata


class Third(DatabasePlugin):
    name = "third"
    metadata = OtherBase.metadata
"""


class _Options:
    def __init__(self, config: Path) -> None:
        self.config = config


def checked(folder: Path, module: str, *plugins: str, more: str = "") -> tuple[int, str]:
    """Return the exit code and the text for a bot with these plugins of a module."""
    (folder / f"{module}.py").write_text(PLUGINS.replace("{suffix}", module[-1]))
    named = ", ".join(f'"{each}"' for each in ("db_manager", *(f"{module}:{p}" for p in plugins)))
    config = folder / "config.toml"
    config.write_text(f'[app]\nplugins = [{named}]\njournal = "memory"\n{more}')
    output = io.StringIO()
    with redirect_stdout(output):
        code = check.run(_Options(config))  # type: ignore[arg-type] # what argparse would give
    return code, output.getvalue()


def test_each_database_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part, under the name of its section, with its own tables."""
    monkeypatch.chdir(tmp_path)
    code, said = checked(tmp_path, "check_plugins_a", "Other", more="[other]\npool_size = 3\n")
    assert code == 0
    first, second = said.split("✓ other ")
    assert "bot.sqlite3" in first
    assert "othera__thing" not in first
    assert "other.sqlite3" in second
    assert "0 of 1 exist; the next start creates: othera__thing" in second


def test_a_faulty_section_does_not_hide_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with one database is said with its section, and the other one is checked."""
    monkeypatch.chdir(tmp_path)
    more = '[other]\nurl = "postgresql+asyncpg://u:canary@h@i/d"\n'
    code, said = checked(tmp_path, "check_plugins_b", "Other", more=more)
    assert code == 1
    assert "✗ other      [other] url: cannot be read" in said
    assert "✓ connect" in said
    assert "canary" not in said


def test_shared_tables_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would fail the start is found before it."""
    monkeypatch.chdir(tmp_path)
    code, said = checked(tmp_path, "check_plugins_c", "Other", "Third")
    assert code == 1
    assert "the table otherc__thing of 'third' belongs to 'other'" in said


# -- the replica ----------------------------------------------------------------------------


@pytest.fixture
async def two(databases: Databases) -> AsyncIterator[tuple[URL, URL]]:
    """Two databases, the second of which plays the replica."""
    urls = (await databases.create(), await databases.create())
    yield urls
    for url in urls:
        await databases.drop(url)


async def replica(url: URL, other: URL) -> Finding:
    """Return what is found about a replica."""
    shown = [each.render_as_string(hide_password=False) for each in (url, other)]
    config = DatabaseConfig(url=shown[0], replica=shown[1], connect_timeout=1)
    (found,) = [each for each in await diagnose(config, METADATA) if each.about == "replica"]
    return found


async def test_a_replica_that_answers(two: tuple[URL, URL]) -> None:
    """It is named, with its place."""
    found = await replica(*two)
    assert found.level == "ok"
    assert f"database {two[1].database}" in found.text


async def test_a_replica_of_something_else_is_warned_about(two: tuple[URL, URL]) -> None:
    """It lacks a table that the database has."""
    async with connected(two[0]) as connection:
        await connection.execute("CREATE TABLE check_several__thing (id integer)")
    found = await replica(*two)
    assert found.level == "warning"
    assert "lacks check_several__thing; is it a replica of this database?" in found.text


async def test_a_replica_that_is_away_is_a_warning(two: tuple[URL, URL]) -> None:
    """The bot works without it."""
    found = await replica(two[0], two[1].set(database="no_such_database"))
    assert found.level == "warning"
    assert "the database itself answers" in found.text


async def test_what_cannot_be_a_replica_is_a_problem(two: tuple[URL, URL]) -> None:
    """With it the bot does not start."""
    found = await replica(two[0], two[1].set(drivername="postgresql+psycopg"))
    assert found.level == "problem"
    assert "a replica has the same one" in found.text
