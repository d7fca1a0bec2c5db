"""Migrations are seen: in the log, the record, the trace."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.project import Project

from db_manager import DatabasePlugin
from lifecycle import Application, PluginFailedError, SqliteJournal
from lifecycle.event import Event
from lifecycle.events import (
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    PluginStarted,
    PluginStarting,
)
from observability import logs
from observability.commands.cli import main
from observability.story.unit_log import units_path
from observability.story.unit_writer import record_units

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
#: Begins each record of a migration of `notes`, in the start hook of `db`.
OF_NOTES = {"run": 1, "plugin": "notes", "correlation": {"plugin": "db"}}
START = (
    PluginLoading(at=0.0, plugin="db"),
    PluginLoaded(at=0.1, plugin="db", duration=0.1),
    PluginStarting(at=0.1, plugin="db"),
)


@pytest.fixture
def shop(tmp_path: Path, sqlite_database: URL) -> Project:
    """A project on SQLite with a revision that creates a table, and one that fails."""
    project = Project.at(tmp_path / "project", sqlite_database)
    project.models(MODEL)
    create = "op.create_table('shop__item', sa.Column('id', sa.Integer, primary_key=True))"
    project.write("0001_first", f"def upgrade():\n    {create}")
    failing = "op.execute('INSERT INTO shop__nothing VALUES (1)')"
    project.write("0002_broken", f"def upgrade():\n    {failing}", after="0001_first")
    return project


def application(project: Project, journal: Path) -> Application:
    """Return a bot on the models of *project*."""
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": project.metadata})
    url = project.config.url
    assert url is not None
    section = {"url": url.get_secret_value()}
    return Application([plugin], config={"database": section}, journal=SqliteJournal(journal))


def trace(journal: Path, *arguments: str) -> str:
    """Return what `db-manager trace` shows of the last run."""
    output = io.StringIO()
    with redirect_stdout(output):
        main(["trace", "--journal", str(journal), *arguments])
    return output.getvalue()


def told(
    journal: Path, events: tuple[Event, ...], *facts: dict[str, object], clean: bool = True
) -> list[str]:
    """Return the lines of the trace of a run with these events and records, without its head."""
    written = SqliteJournal(journal)
    written.open()
    for event in events:
        written.append(event)
    written.close(clean=clean)
    lines = "".join(json.dumps({**OF_NOTES, **fact}) + "\n" for fact in facts)
    units_path(journal).write_text(lines)
    return [line for line in trace(journal).splitlines()[2:] if not line.startswith("1970")]


async def test_a_start_that_migrates_is_seen(shop: Project, tmp_path: Path) -> None:
    """Below the start stand the revision that was applied and the one that was not."""
    journal = tmp_path / "bot.sqlite3"
    app = application(shop, journal)
    lines = io.StringIO()
    end = record_units(app.bus, units_path(journal))
    with logs.attach(app.bus, stream=lines, format="console", stdlib=True):
        with pytest.raises(PluginFailedError):
            await app.start()
        await app.unload()
    end()
    shown = trace(journal).splitlines()
    start = next(i for i, line in enumerate(shown) if "start   db_manager" in line)
    applied, failed = (re.sub(r"[\d.]+ ms", "… ms", line[15:]) for line in shown[start + 1 :][:2])
    assert applied.split() == ["migrate", "shop", "…", "ms", "0001_first"]
    assert re.match("✗ +migrate shop +… ms +0002_broken; nothing of it is kept$", failed)
    assert "OperationalError: SQLITE_ERROR" in shown[start]
    assert trace(journal, "--plugin", "shop").count("migrate shop") == 2
    log = lines.getvalue()
    assert "info    database.migrating   plugin=shop revision=0001_first" in log
    assert "info    database.migrated    plugin=shop revision=0001_first duration=" in log
    assert "error   database.migration_failed plugin=shop revision=0002_broken error=" in log
    assert "kept=0" in log
    assert "alembic.runtime" not in log  # what it says is said by these lines


def test_a_migration_stands_below_the_start_that_it_is_of(tmp_path: Path) -> None:
    """With its time; tables that differ are told there too, a line for each difference."""
    shown = told(
        tmp_path / "bot.sqlite3",
        (*START, PluginStarted(at=1.0, plugin="db", duration=0.9)),
        {"topic": "database.migrating", "at": 0.2, "revision": "0002_add_done"},
        {"topic": "database.migrated", "at": 0.5, "revision": "0002_add_done", "duration": 0.25},
        {"topic": "database.drifted", "at": 0.6, "plugin": "", "differences": ["one", "two"]},
        {"topic": "database.migrated", "at": 2.0, "revision": "0003", "database": "stats"},
    )
    assert shown[1:5] == [
        "00:00:00.100Z      start   db                    900.0 ms",
        "00:00:00.250Z        migrate notes               250.0 ms  0002_add_done",
        f"00:00:00.600Z  !     tables differ {'':<24}one",
        f"{'':<59}two",
    ]
    assert shown[5] == f"00:00:02.000Z      migrate notes on stats {'':<9}0.0 ms  0003"


def test_the_error_of_a_failed_start_is_not_told_twice(tmp_path: Path) -> None:
    """Another one is told, and so is what stayed of the migration."""
    known = "MigrationError: migration 0002_b of 'notes': OperationalError: 1146"
    failed = PluginFailed(at=1.0, plugin="db", hook="start", error=known, duration=0.9)
    begin = {"topic": "database.migrating", "at": 0.25, "revision": "0002_b"}
    fail = {"topic": "database.migration_failed", "at": 0.5, "revision": "0002_b", "kept": 2}
    path = tmp_path / "bot.sqlite3"
    error = "OperationalError: 1146"
    shown = told(path, (*START, failed), begin, {**fail, "error": error})
    stayed = "2 statements of it stayed"
    assert (
        shown[2] == f"00:00:00.250Z  ✗     migrate notes               250.0 ms  0002_b; {stayed}"
    )
    shown = told(tmp_path / "other.sqlite3", (*START, failed), begin, {**fail, "error": "Other"})
    assert shown[2].endswith(f"0002_b; Other; {stayed}")


def test_a_migration_in_which_the_process_died_is_named(tmp_path: Path) -> None:
    """Below the hook that has no end, and after the verdict."""
    begin = {"topic": "database.migrating", "at": 0.25, "revision": "0002_add_done"}
    shown = told(tmp_path / "bot.sqlite3", START, begin, clean=False)
    assert shown[1:3] == [
        f"00:00:00.100Z  …   start   db {'':<29}unfinished",
        f"00:00:00.250Z  …     migrate notes {'':<24}0002_add_done; unfinished",
    ]
    assert shown[-1] == "  migration 0002_add_done of 'notes' was being applied"


def test_who_follows_sees_a_migration_begin(tmp_path: Path) -> None:
    """It may take long, and its end is told when it comes."""
    path = tmp_path / "bot.sqlite3"
    events = (*START, PluginStarted(at=1.0, plugin="db", duration=0.9))
    begin = {"topic": "database.migrating", "at": 0.25, "revision": "0002_add_done"}
    end = {"topic": "database.migrated", "at": 0.5, "revision": "0002_add_done", "duration": 0.25}
    told(path, events, begin, end)
    shown = trace(path, "--follow").splitlines()[6:9]
    assert [line[19:] for line in shown] == [
        f"  migrating notes … {'':<20}0002_add_done",
        "  migrate notes               250.0 ms  0002_add_done",
        "start   db                    900.0 ms",
    ]
