"""MariaDB commits each DDL statement: a migration half way is refused, with the ways out."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection
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
    op.create_table("shop__item", sa.Column("id", sa.Integer, primary_key=True), if_not_exists=True)
    op.execute("INSERT INTO shop__item (id) VALUES (1), (2)")

def downgrade():
    op.drop_table("shop__item")
"""
THREE = """
def upgrade():
    op.add_column("shop__item", sa.Column("title", sa.String(50)))
    op.add_column("shop__item", sa.Column("price", sa.Integer))
    op.execute("{third}")

def downgrade():
    op.drop_column("shop__item", "price")
    op.execute("{third}")
    op.drop_column("shop__item", "title")
"""
BROKEN = THREE.format(third="UPDATE shop__nothing SET id = 1")
REPAIRED = THREE.format(third="UPDATE shop__item SET price = 1 + 4")
ROWS = """
def upgrade():
    op.execute("UPDATE shop__item SET id = id + 10")
    op.execute("{second}")
"""
COLUMNS = text(
    "SELECT column_name FROM information_schema.columns"
    " WHERE table_schema = database() AND table_name = 'shop__item' ORDER BY ordinal_position"
)


@pytest.fixture
async def shop(tmp_path: Path, mariadb_database: URL) -> Project:
    """A project on MariaDB, with a table with two rows."""
    project = Project.at(tmp_path / "project", mariadb_database)
    project.models(MODEL)
    project.write("0001_first", FIRST)
    await project.upgrade()
    return project


async def columns(project: Project) -> list[object]:
    """Return the columns of the table."""
    return [name for (name,) in await project.say(str(COLUMNS))]


async def mark(project: Project) -> object:
    """Return the comment of the version table."""
    [(comment,)] = await project.say(
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = database()"
        " AND table_name = 'shop__alembic_version'"
    )
    return comment


async def break_half_way(project: Project) -> None:
    """Let the third of three statements fail, and repair it then."""
    project.write("0002_three", BROKEN, after="0001_first")
    with pytest.raises(MigrationError, match="2 statements of it stayed"):
        await project.upgrade()
    project.write("0002_three", REPAIRED, after="0001_first")


async def test_it_is_refused_until_somebody_says_what_is_there(shop: Project) -> None:
    """Repaired code does not run over what is half done; undone by hand, it does."""
    await break_half_way(shop)
    for _ in range(2):
        with pytest.raises(
            HalfWayError, match="migration 0002_three of 'shop': it began"
        ) as caught:
            await shop.upgrade()
    assert "db-manager migrate stamp shop 0002_three" in str(caught.value)
    assert "db-manager migrate stamp shop 0001_first" in str(caught.value)
    await shop.say(
        "ALTER TABLE shop__item DROP COLUMN title", "ALTER TABLE shop__item DROP COLUMN price"
    )
    await shop.move("stamp", "0001")
    assert await mark(shop) == ""
    assert await shop.upgrade() == ["0002_three"]
    assert await shop.say("SELECT id, price FROM shop__item") == [(1, 5), (2, 5)]
    assert await mark(shop) == ""


async def test_or_it_is_finished_by_hand(shop: Project) -> None:
    """The other way out: the rest is done, and the database is at the revision."""
    await break_half_way(shop)
    await shop.say("UPDATE shop__item SET price = 6")
    await shop.move("stamp", "0002")
    assert await mark(shop) == ""
    assert await shop.upgrade() == []
    assert await shop.say("SELECT price FROM shop__item") == [(6,), (6,)]


async def test_taking_back_is_marked_too(shop: Project) -> None:
    """A downgrade that stays half done is found by the next one."""
    shop.write("0002_three", REPAIRED, after="0001_first")
    await shop.upgrade()
    shop.write("0002_three", BROKEN, after="0001_first")
    with pytest.raises(MigrationError, match="1 statement of it stayed") as caught:
        await shop.move("downgrade", "0001")
    assert "say so with `db-manager migrate stamp shop 0001_first`" in str(caught.value)
    with pytest.raises(HalfWayError, match="migration 0002_three of 'shop'"):
        await shop.move("downgrade", "0001")


async def test_what_did_nothing_is_not_half_way(shop: Project) -> None:
    """Its first statement failed: the corrected file runs. What failed in part is half way."""
    code = "def upgrade():\n    op.execute('{}')"
    for broken in ("ALTER TABLE shop__nothing ADD x INT", "CREATE TABLE shop__item (id INT)"):
        shop.write("0002_three", code.format(broken), after="0001_first")
        with pytest.raises(MigrationError, match="nothing of it is kept"):
            await shop.upgrade()
        assert await mark(shop) == ""
    broken = "DROP TABLE shop__item, shop__nothing"
    shop.write("0002_three", code.format(broken), after="0001_first")
    with pytest.raises(MigrationError, match="1 statement of it stayed"):
        await shop.upgrade()
    with pytest.raises(HalfWayError):
        await shop.upgrade()


async def test_rows_are_one_transaction(shop: Project) -> None:
    """A migration of rows alone leaves nothing half way: it is corrected, and runs."""
    shop.write(
        "0002_rows", ROWS.format(second="UPDATE shop__nothing SET id = 1"), after="0001_first"
    )
    with pytest.raises(MigrationError, match="nothing of it is kept"):
        await shop.upgrade()
    shop.write(
        "0002_rows", ROWS.format(second="DELETE FROM shop__item WHERE id = 12"), after="0001_first"
    )
    assert await shop.upgrade() == ["0002_rows"]
    assert await shop.say("SELECT id FROM shop__item") == [(11,)]


async def test_what_exists_already_is_left_alone_by_a_first_one(
    tmp_path: Path, mariadb_database: URL
) -> None:
    """CREATE TABLE IF NOT EXISTS bears repetition, so it is not refused; another does not."""
    project = Project.at(tmp_path / "project", mariadb_database)
    project.models(MODEL)
    repeatable = "op.execute('CREATE TABLE IF NOT EXISTS shop__item (id INTEGER PRIMARY KEY)')"
    broken = "op.execute('UPDATE shop__nothing SET id = 1')"
    project.write("0001_first", f"def upgrade():\n    {repeatable}\n    {broken}")
    for _ in range(2):
        with pytest.raises(MigrationError, match="1 statement of it stayed"):
            await project.upgrade()
    once = "op.create_table('shop__box', sa.Column('id', sa.Integer))"
    project.write("0001_first", f"def upgrade():\n    {once}\n    {broken}")
    with pytest.raises(MigrationError, match="1 statement of it stayed"):
        await project.upgrade()
    with pytest.raises(HalfWayError, match="stamp shop base"):
        await project.upgrade()


async def test_what_ended_is_not_half_way(shop: Project) -> None:
    """Killed after the COMMIT and before the mark was removed: the mark is out of date."""
    shop.write("0002_three", REPAIRED, after="0001_first")
    shop.write(
        "0003_rows", ROWS.format(second="UPDATE shop__item SET price = 7"), after="0002_three"
    )
    await shop.upgrade("0002")
    await shop.say(
        "ALTER TABLE shop__alembic_version COMMENT ="
        """ "half way from '0001_first' to '0002_three' since 2025-01-01 on connection 1" """
    )
    assert await shop.upgrade() == ["0003_rows"]


async def test_a_statement_that_got_no_lock_is_repeated(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds the table before the third statement: nothing stays half way."""
    monkeypatch.setattr(Migration, "lock_wait", 1.0)
    shop.write("0002_three", REPAIRED, after="0001_first")
    engine = shop.engine()
    async with engine.connect() as reader, engine.connect() as other:
        await reader.execute(text("SELECT * FROM shop__item"))
        migrating = asyncio.create_task(shop.upgrade())
        for waits in (True, False, True, False):
            await _becomes(other, waits=waits)
        await other.execute(text("SELECT * FROM shop__item"))  # between two turns
        await other.rollback()
        assert not migrating.done()
        await reader.rollback()
        assert await migrating == ["0002_three"]
    await engine.dispose()
    assert await columns(shop) == ["id", "title", "price"]


async def _becomes(connection: AsyncConnection, *, waits: bool) -> None:
    """Ask until an ALTER TABLE waits for the table, or does not."""
    asked = text(
        "SELECT count(*) FROM information_schema.processlist WHERE db = database()"
        " AND state LIKE 'Waiting for table metadata lock'"
    )
    while bool(await connection.scalar(asked)) is not waits:
        await connection.rollback()
    await connection.rollback()


async def test_a_cancelled_statement_ends_at_the_server(shop: Project) -> None:
    """Nobody waits behind DDL that nobody wants any more; the mark is there."""
    shop.write(
        "0002_three",
        THREE.format(third="INSERT INTO shop__item (id) SELECT 9 + SLEEP(60)"),
        after="0001_first",
    )
    running = text(
        "SELECT count(*) FROM information_schema.processlist WHERE db = database()"
        " AND info LIKE 'INSERT INTO shop__item%'"
    )
    engine = shop.engine()
    async with engine.connect() as other:
        migrating = asyncio.create_task(shop.upgrade())
        while not await other.scalar(running):
            await other.rollback()
        migrating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await migrating
        assert not await other.scalar(running)
        assert await other.scalar(
            text("SELECT is_free_lock(concat('db_manager.', sha1(database())))")
        )
    await engine.dispose()
    failed = shop.events[-1].as_dict()
    assert (failed["topic"], failed["error"], failed["kept"]) == (
        "database.migration_failed",
        "cancelled",
        2,
    )
    with pytest.raises(HalfWayError):
        await shop.upgrade()
