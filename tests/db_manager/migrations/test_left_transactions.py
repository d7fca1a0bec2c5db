"""What a revision does that leaves its transaction, as CREATE INDEX CONCURRENTLY must."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.project import Project

from db_manager.dialects.migration import Migration
from db_manager.migrations.failure import HalfWayError, MigrationError

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
FIRST = """
def upgrade():
    op.create_table(
        "shop__item", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
    )
    op.execute("INSERT INTO shop__item (id, n) VALUES (1, 7), (2, 7)")
"""
LEAVES = """
def upgrade():
    op.add_column("shop__item", sa.Column("title", sa.String(50)))
    with op.get_context().autocommit_block():
        op.execute("UPDATE shop__item SET title = 'tea'")
    op.execute("INSERT INTO shop__nothing (id) VALUES (1)")
"""
UNIQUE = """
def upgrade():
    with op.get_context().autocommit_block():
        op.create_index(
            "shop_n", "shop__item", ["n"], unique=True, if_not_exists=True,
            postgresql_concurrently=True,
        )
"""
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop_n'::regclass"
ALTERS_AFTER = """
def upgrade():
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY shop_n ON shop__item (n)")
    op.add_column("shop__item", sa.Column("title", sa.String(50)))
"""


async def shop(folder: Path, url: URL, second: str) -> Project:
    """Return a project with a table with two rows, and a second revision."""
    project = Project.at(folder / "project", url)
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_second", second, after="0001_first")
    await project.upgrade("0001")
    return project


async def test_sqlite_has_nothing_that_must_run_outside(
    tmp_path: Path, sqlite_database: URL
) -> None:
    """An `autocommit_block` keeps the one transaction, and its lock: a failure keeps nothing."""
    project = await shop(tmp_path, sqlite_database, LEAVES)
    with pytest.raises(MigrationError, match="nothing of it is kept"):
        await project.upgrade()
    names = await project.say("SELECT name FROM pragma_table_info('shop__item')")
    assert names == [("id",), ("n",)]


async def test_one_that_failed_outside_is_not_repeated_at_the_next_start(
    tmp_path: Path, postgres_database: URL
) -> None:
    """What was committed before is there, and an INVALID index: somebody has to look first."""
    project = await shop(tmp_path, postgres_database, UNIQUE)
    with pytest.raises(MigrationError, match=r"UniqueViolation.*\n1 statement of it stayed"):
        await project.upgrade()
    await project.say("UPDATE shop__item SET n = id")
    for _ in range(2):  # as an orchestrator starts it again and again
        with pytest.raises(HalfWayError, match="migration 0002_second of 'shop': it began at"):
            await project.upgrade()
    await project.say("DROP INDEX shop_n")
    await project.move("stamp", "0001")
    assert await project.upgrade() == ["0002_second"]
    await project.move("stamp", "0001")
    assert await project.upgrade() == ["0002_second"]  # nothing is known of the first attempt


async def test_an_invalid_index_is_believed_by_nobody(
    tmp_path: Path, postgres_database: URL
) -> None:
    """IF NOT EXISTS goes over one that an attempt before has left behind."""
    project = await shop(tmp_path, postgres_database, UNIQUE)
    with pytest.raises(MigrationError, match="UniqueViolation"):
        await project.upgrade()
    await project.say("UPDATE shop__item SET n = id")
    await project.move("stamp", "0001")
    for _ in range(2):
        with pytest.raises(MigrationError, match=r"shop_n is INVALID.* DROP INDEX shop_n"):
            await project.upgrade()
    await project.say("DROP INDEX shop_n")
    assert await project.upgrade() == ["0002_second"]
    assert await project.say(VALID) == [(True,)]


async def test_concurrently_in_the_transaction_keeps_nothing(
    tmp_path: Path, postgres_database: URL
) -> None:
    """Who forgot the block is told so by the server, and corrects the file."""
    code = "def upgrade():\n    op.execute('CREATE INDEX CONCURRENTLY shop_n ON shop__item (n)')"
    project = await shop(tmp_path, postgres_database, code)
    with pytest.raises(MigrationError, match="nothing of it is kept"):
        await project.upgrade()
    project.write("0002_second", UNIQUE.replace("unique=True, ", ""), after="0001_first")
    assert await project.upgrade() == ["0002_second"]


async def test_rows_outside_are_half_way_too(tmp_path: Path, mariadb_database: URL) -> None:
    """On MariaDB an UPDATE in the block stays although it is no DDL."""
    update = "op.execute('UPDATE shop__item SET n = n + 1')"
    project = await shop(
        tmp_path,
        mariadb_database,
        f"def upgrade():\n    with op.get_context().autocommit_block():\n        {update}\n"
        "    op.execute('UPDATE shop__nothing SET n = 1')",
    )
    with pytest.raises(MigrationError, match="1 statement of it stayed"):
        await project.upgrade()
    with pytest.raises(HalfWayError):
        await project.upgrade()
    assert await project.say("SELECT n FROM shop__item") == [(8,), (8,)]


async def test_after_it_locks_are_asked_for_briefly_too(
    tmp_path: Path, postgres_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction after the block would wait without end, and everybody behind it."""
    monkeypatch.setattr(Migration, "lock_wait", 0.2)
    project = await shop(tmp_path, postgres_database, ALTERS_AFTER)
    engine = project.engine()
    async with engine.begin() as holder:
        # It has no snapshot, which would hold CONCURRENTLY up.
        await holder.execute(text("LOCK TABLE shop__item IN ACCESS SHARE MODE"))
        async with asyncio.timeout(30):
            with pytest.raises(MigrationError, match="1 statement of it stayed"):
                await project.upgrade()
    await engine.dispose()
