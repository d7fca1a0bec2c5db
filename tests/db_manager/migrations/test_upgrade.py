"""What is pending is applied once, as a whole, and says what it did."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from support.project import Project

from db_manager.dialects.migration import Migration
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.versions import standings

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
"""
FIRST = """
def upgrade():
    op.create_table("shop__item", sa.Column("id", sa.Integer, primary_key=True), if_not_exists=True)

def downgrade():
    op.drop_table("shop__item")
"""
SECOND = """
def upgrade():
    op.add_column("shop__item", sa.Column("title", sa.String(50)))
    op.execute("INSERT INTO shop__item (id, title) VALUES (1, 'tea')")

def downgrade():
    op.execute("DELETE FROM shop__item")
    op.drop_column("shop__item", "title")
"""
PARENTS = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id"))
"""
CONCURRENTLY = """
def upgrade():
    op.execute("ALTER TABLE shop__item ADD COLUMN title varchar(50)")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY here ON shop__item (title)")
        op.execute("CREATE INDEX CONCURRENTLY here ON shop__item (title)")
"""
BROKEN = """
def upgrade():
    op.add_column("shop__item", sa.Column("title", sa.String(50)))
    op.execute("INSERT INTO shop__nothing (id) VALUES (1)")
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with two revisions."""
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_title", SECOND, after="0001_first")
    return project


async def at(project: Project) -> str | None:
    """Return what the database is at."""
    engine = project.engine()
    async with engine.connect() as connection:
        [standing] = await connection.run_sync(standings, project.histories.values())
    await engine.dispose()
    return standing.at


async def test_what_is_pending_is_applied_once(shop: Project) -> None:
    """A second upgrade does nothing, and says nothing."""
    assert await shop.upgrade() == ["0001_first", "0002_title"]
    assert await shop.say("SELECT id, title FROM shop__item") == [(1, "tea")]
    assert [e.topic for e in shop.events] == ["database.migrating", "database.migrated"] * 2
    assert await shop.upgrade() == []
    assert len(shop.events) == 4


async def test_it_goes_as_far_as_it_is_told_and_back(shop: Project) -> None:
    """A target, a way back, and a stamp that changes nothing else."""
    assert await shop.upgrade("0001") == ["0001_first"]
    assert await at(shop) == "0001_first"
    assert await shop.upgrade() == ["0002_title"]
    await shop.move("downgrade", "0001")
    assert await at(shop) == "0001_first"
    await shop.move("stamp", "head")
    assert await at(shop) == "0002_title"
    assert await shop.upgrade() == []


async def test_starts_together_apply_each_revision_once(shop: Project) -> None:
    """Four upgrades at once: one announces each revision, and all are well."""
    done = await asyncio.gather(*(shop.upgrade() for _ in range(4)))
    applied = [e.as_dict()["revision"] for e in shop.events if e.topic == "database.migrated"]
    assert sorted(applied) == ["0001_first", "0002_title"]
    assert len(done) == 4
    assert await shop.say("SELECT count(*) FROM shop__item") == [(1,)]


async def test_tables_that_were_created_are_adopted(shop: Project) -> None:
    """A first revision that creates what is missing leaves the rows of `create_tables` alone."""
    await shop.say(
        "CREATE TABLE shop__item (id INTEGER PRIMARY KEY)", "INSERT INTO shop__item VALUES (7)"
    )
    assert await shop.upgrade() == ["0001_first", "0002_title"]
    assert await shop.say("SELECT id FROM shop__item ORDER BY id") == [(1,), (7,)]


async def test_a_failing_one_names_what_is_kept(shop: Project) -> None:
    """Where DDL is in the transaction nothing is kept, and a corrected file applies."""
    shop.write("0002_title", BROKEN, after="0001_first")
    with pytest.raises(MigrationError, match=r"UndefinedTable|OperationalError|1146") as caught:
        await shop.upgrade()
    failed = shop.events[-1].as_dict()
    assert (failed["topic"], failed["revision"]) == ("database.migration_failed", "0002_title")
    assert await at(shop) == "0001_first"
    if caught.value.kept:  # MariaDB commits each DDL statement
        assert caught.value.kept == failed["kept"] == 1
        assert "db-manager migrate stamp shop 0001_first" in str(caught.value)
        await shop.say("ALTER TABLE shop__item DROP COLUMN title")
        await shop.move("stamp", "0001")
    else:
        assert "nothing of it is kept" in str(caught.value)
    shop.write("0002_title", SECOND, after="0001_first")
    assert await shop.upgrade() == ["0002_title"]


async def test_a_database_that_is_ahead_is_left_alone(shop: Project) -> None:
    """Old code on a newer database applies nothing."""
    await shop.upgrade()
    shop.histories["shop"].revisions[-1].file.unlink()
    assert await shop.upgrade() == []
    assert await at(shop) == "0002_title"


@pytest.mark.matrix(
    "M22",
    load="SQLite: a row is deleted to which another refers",
    result="refused, with the table; the row is there",
)
async def test_rows_that_refer_to_nothing_are_refused(sqlite_project: Project) -> None:
    """On SQLite a revision runs without foreign keys, and they are checked before COMMIT."""
    project = sqlite_project
    project.models(PARENTS)
    await project.revision()
    await project.upgrade()
    await project.say("INSERT INTO shop__item VALUES (1)", "INSERT INTO shop__part VALUES (1, 1)")
    code = "def upgrade():\n    op.execute('DELETE FROM shop__item')"
    project.write("0002_bad", code, after="0001_first")
    with pytest.raises(MigrationError, match="shop__part refers to rows of shop__item") as caught:
        await project.upgrade()
    assert caught.value.kept == 0
    assert await project.say("SELECT count(*) FROM shop__item") == [(1,)]
    assert await at(project) == "0001_first"


async def test_what_leaves_its_transaction_says_what_it_kept(
    postgres_database: URL, tmp_path: Path
) -> None:
    """After an `autocommit_block` a failure is not repeated, and what was committed is counted."""
    project = Project.at(tmp_path / "project", postgres_database)
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_index", CONCURRENTLY, after="0001_first")
    with pytest.raises(MigrationError, match="2 statements of it stayed") as caught:
        await project.upgrade()
    assert "db-manager migrate stamp shop 0002_index" in str(caught.value)
    await project.move("stamp", "0002_index")
    assert await project.upgrade() == []


async def test_a_lock_is_asked_for_briefly_and_again(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that holds the table is waited for in short turns; whoever comes later gets in."""
    monkeypatch.setattr(Migration, "lock_wait", 0.2)
    project = Project.at(tmp_path / "project", postgres_database)
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_title", SECOND, after="0001_first")
    await project.upgrade("0001")
    engine = project.engine()
    async with engine.connect() as reader:
        await reader.execute(text("SELECT * FROM shop__item"))
        migrating = asyncio.create_task(project.upgrade())
        blocked = text(
            "SELECT count(*) FROM pg_locks WHERE relation = 'shop__item'::regclass AND NOT granted"
        )
        async with engine.connect() as other:
            for turn in (1, 0, 1, 0):  # it waits, gives up, and waits again
                await _becomes(other, blocked, turn)
            await other.execute(text("SELECT * FROM shop__item"))  # between two turns
            assert not migrating.done()
    assert await migrating == ["0002_title"]
    await engine.dispose()


async def _becomes(connection: AsyncConnection, query: TextClause, value: int) -> None:
    """Ask until *query* says *value*."""
    while await connection.scalar(query) != value:
        await connection.rollback()
    await connection.rollback()
