"""Where nothing is to be done, migrations cost nothing."""

import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL
from support.programs import said_by
from support.project import Project
from support.proxy import PostgresProxy

from db_manager import DatabasePlugin
from lifecycle import Application, MemoryJournal

MODELS = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40), index=True)

class Visit(Base):
    __tablename__ = "guests__visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id"))

class Letter(Base):
    __tablename__ = "post__letter"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
#: Starts a bot, and tells whether Alembic was imported for that.
PROGRAM = """
import asyncio, sys
from lifecycle import Application

async def main():
    async with Application.from_config("config.toml"):
        print("alembic" in sys.modules)

asyncio.run(main())
"""
DIARY = """
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base
from lifecycle import Plugin

class Note(Base):
    __tablename__ = "diary__note"
    id: Mapped[int] = mapped_column(primary_key=True)

class Diary(Plugin):
    name = "diary"
    requires = ("db_manager",)
"""
CONFIG = """
[app]
plugins = ["db_manager", "diary:Diary"]
journal = "memory"

[database]
database = "diary.sqlite3"
"""


def application(project: Project, url: str) -> Application:
    """Return a bot on the models of *project*, with the database at *url*."""
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": project.metadata})
    return Application([plugin], config={"database": {"url": url}}, journal=MemoryJournal())


async def finish(project: Project, *, plugins: tuple[str, ...]) -> None:
    """Let *plugins* have a migration each, and the database all of it."""
    project.models(MODELS)
    for plugin in plugins:
        await project.revision(plugin)
    async with application(project, project.url):
        pass


@pytest.mark.parametrize("plugins", [("shop", "guests", "post"), ("shop",)], ids=["all", "one"])
@pytest.mark.matrix(
    "M6",
    load="plugins with migrations, nothing pending",
    result="as many round trips as without",
)
async def test_a_start_has_no_more_round_trips(
    postgres_database: URL, tmp_path: Path, plugins: tuple[str, ...]
) -> None:
    """The query for versions takes the place of the ping; the rest is what it was."""
    project = Project.at(tmp_path / "project", postgres_database)
    await finish(project, plugins=plugins)
    counts = []
    assert postgres_database.host is not None
    async with PostgresProxy(postgres_database.host, postgres_database.port or 5432) as proxy:
        for _ in ("with migrations", "without"):
            before = proxy.round_trips
            url = proxy.url(postgres_database).render_as_string(hide_password=False)
            async with application(project, url):
                counts.append(proxy.round_trips - before)
            if (project.folder / "migrations").exists():
                (project.folder / "migrations").rename(tmp_path / "elsewhere")
                await project.say(*(f"DROP TABLE {name}__alembic_version" for name in plugins))
    with_them, without = counts
    assert with_them == without


@pytest.mark.matrix(
    "M6",
    load="SQLite, 3 plugins, nothing pending",
    result="one query for all versions",
)
async def test_a_start_on_sqlite_asks_no_more(sqlite_project: Project) -> None:
    """One query for all versions, and as many statements as without."""
    await finish(sqlite_project, plugins=("shop", "guests", "post"))
    sent: list[str] = []
    app = application(sqlite_project, sqlite_project.url)
    await app.load()
    engine = app.services["db_manager:engine"]

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        sent.append(sql)

    await app.start()
    await app.unload()
    [versions] = [sql for sql in sent if "alembic_version" in sql]
    assert versions.count("UNION ALL") == 2
    assert "SELECT 1" not in sent


async def test_a_start_waits_for_no_writer(sqlite_project: Project, tmp_path: Path) -> None:
    """Whoever only looks what the database is at reads a snapshot of it."""
    await finish(sqlite_project, plugins=("shop",))
    app = application(sqlite_project, sqlite_project.url)
    writer = sqlite3.connect(tmp_path / "bot.sqlite3", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        async with app:
            assert (await app.health())["db_manager"].healthy
    finally:
        writer.close()


@pytest.mark.matrix(
    "M6",
    load="a program that starts twice",
    result="imported by the first start only",
)
def test_a_start_does_not_import_alembic(tmp_path: Path) -> None:
    """Neither does one that looks at histories; only one that applies something does."""
    (tmp_path / "diary.py").write_text(DIARY, encoding="utf-8")
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "observability.commands.cli"]
    said_by(*command, "migrate", "revision", cwd=tmp_path)
    starts = [said_by(sys.executable, "-c", PROGRAM, cwd=tmp_path) for _ in range(2)]
    assert starts == ["True\n", "False\n"]
