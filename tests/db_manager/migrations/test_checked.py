"""`db-manager check` finds the state of migrations, with a level and a way out for each."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.project import Project

from db_manager.check.diagnosis import diagnose
from db_manager.config import DatabaseConfig

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(40))
"""
VISIT = MODEL.replace("Item", "Visit").replace("shop__item", "guests__visit")
PASS = "def upgrade():\n    pass\n"


@pytest.fixture
async def shop(project: Project) -> Project:
    """A project whose one revision was applied, on each database."""
    return await _applied(project)


@pytest.fixture
async def sqlite_shop(sqlite_project: Project) -> Project:
    """A project whose one revision was applied, on SQLite."""
    return await _applied(sqlite_project)


async def _applied(project: Project) -> Project:
    project.models(MODEL)
    await project.revision()
    await project.upgrade()
    return project


async def found(project: Project, about: str = "migrations", **keys: Any) -> list[tuple[str, str]]:
    """Return the findings about one thing, each with its level."""
    config: DatabaseConfig = project.config.model_copy(update=keys)
    findings = await diagnose(config, project.metadata)
    return [(each.level, each.text) for each in findings if each.about == about]


async def test_all_is_well_after_an_upgrade(shop: Project) -> None:
    """Each plugin is named with its revision."""
    assert await found(shop) == [("ok", "shop 0001_first")]
    assert await found(shop, "tables") == [("ok", "1 of 1 exists")]
    assert await found(shop, "drift") == []
    assert await found(shop, "indexes") == []


async def test_what_is_pending_is_a_problem(shop: Project) -> None:
    """With what applies it; where nobody looks at the start, it is a warning."""
    shop.write("0002_a", PASS, after="0001_first")
    shop.write("0003_b", PASS, after="0002_a")
    applied = "shop: 0002_a, 0003_b pending; `db-manager migrate upgrade` applies it"
    assert await found(shop) == [("problem", f"{applied}, and so does the next start")]
    assert await found(shop, migrate="check") == [("problem", applied)]
    assert await found(shop, migrate="off") == [("warning", applied)]


async def test_a_database_that_is_ahead_is_a_warning(shop: Project) -> None:
    """An old replica works on it."""
    await shop.say("UPDATE shop__alembic_version SET version_num = '0009_newer'")
    [(level, said)] = await found(shop)
    assert level == "warning"
    assert said.startswith("shop is at 0009_newer, which this code does not know")


async def test_broken_histories_are_problems(sqlite_shop: Project) -> None:
    """Of every plugin at once: two heads here, two files with one id there."""
    sqlite_shop.models(
        MODEL + MODEL.replace("Item", "Visit").replace("shop__item", "guests__visit")
    )
    sqlite_shop.write("0002_a", PASS, after="0001_first")
    sqlite_shop.write("0002_b", PASS, after="0001_first")
    twin = sqlite_shop.write("0001_a", PASS, plugin="guests")
    twin.with_name("copy.py").write_text(twin.read_text())
    broken = await found(sqlite_shop)
    assert [level for level, _ in broken] == ["problem", "problem"]
    twins, heads = sorted(said for _, said in broken)
    assert twins.startswith("migration 0001_a of 'guests': two files have this id: 0001_a.py and c")
    assert heads.startswith("migration 0002_b of 'shop': 0002_a.py and 0002_b.py both follow 0001_")


async def test_a_history_that_is_not_shipped_is_a_problem(sqlite_shop: Project) -> None:
    """And what differs is not told as if it were one without migrations."""
    (sqlite_shop.folder / "migrations").rename(sqlite_shop.folder / "elsewhere")
    sqlite_shop.models(MODEL + "    more: Mapped[int | None]\n")
    [(level, said)] = await found(sqlite_shop)
    assert level == "problem"
    assert said.startswith("the migrations of 'shop': the database is at 0001_first, and ")
    assert await found(sqlite_shop, "drift") == []


async def test_a_file_that_cannot_be_run_is_a_problem(shop: Project) -> None:
    """Before somebody starts a bot with it."""
    shop.write("0002_a", "def upgrade(:\n", after="0001_first")
    said = await found(shop)
    assert [level for level, _ in said] == ["problem", "problem"]
    assert "migration 0002_a of 'shop': SyntaxError" in said[1][1]


async def test_models_that_changed_need_a_revision(shop: Project) -> None:
    """On a file it is said which one is due; on a server what differs, with the same command."""
    shop.models(MODEL + "    more: Mapped[int | None]\n")
    [(level, said)] = await found(shop, "drift")
    assert level == "problem"  # every statement of the model fails
    assert said.startswith("shop__item has no column more; ALTER TABLE shop__item ADD COLUMN more")
    assert "Did its models change? `db-manager migrate revision shop` writes the next one" in said
    due = (await found(shop))[1:]
    if "sqlite" in shop.url:
        [(level, said)] = due
        assert level == "warning"
        assert "have what its migrations have not: 0002_add_more is due; `db-manager migr" in said
    else:
        assert due == []
    shop.models(MODEL.replace("String(40)", "String(40), index=True"))
    [(level, said)] = await found(shop, "drift")
    assert level == "warning"
    assert said.startswith("shop__item has no index on title")


async def test_a_new_database_has_nothing_to_complain_about(sqlite_project: Project) -> None:
    """The first start makes it; where it does not migrate, somebody has to."""
    sqlite_project.models(MODEL)
    sqlite_project.write("0001_first", PASS)
    sqlite_project.models(MODEL + VISIT)
    assert (await found(sqlite_project))[0] == ("ok", "the first start migrates shop to 0001_first")
    [(level, said)] = await found(sqlite_project, "tables")
    assert level == "ok"
    assert said == (
        "0 of 2 exist; migrations make: shop__item; the next start creates: guests__visit"
    )
    said = (await found(sqlite_project, migrate="check"))[0][1]
    assert said == "shop: 0001_first pending; `db-manager migrate upgrade` applies it"


async def test_a_table_that_went_missing_is_a_problem(shop: Project) -> None:
    """No migration will make it again."""
    await shop.say("DROP TABLE shop__item")
    assert await found(shop, "tables") == [
        ("problem", "missing, although their migrations were applied: shop__item")
    ]


async def test_an_invalid_index_comes_with_its_cure(postgres_database: URL, tmp_path: Path) -> None:
    """What CREATE INDEX CONCURRENTLY left is written and never read, until somebody mends it."""
    project = await _applied(Project.at(tmp_path / "project", postgres_database))
    await project.say(
        "INSERT INTO shop__item VALUES (1, 'tea'), (2, 'tea')", "CREATE TABLE o (i int)"
    )
    engine = project.engine()
    for statement in (
        "CREATE UNIQUE INDEX CONCURRENTLY ix_title ON shop__item (title)",
        "CREATE UNIQUE INDEX CONCURRENTLY ix_ccnew ON shop__item (title)",
    ):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(Exception, match="could not create unique index"):
                await connection.execute(text(statement))
    await engine.dispose()
    [(level, said)] = await found(project, "indexes")
    assert level == "warning"
    first, second = said.splitlines()
    assert first.endswith("; DROP INDEX CONCURRENTLY ix_ccnew")
    assert second == (
        "shop__item has the invalid index ix_title: CONCURRENTLY did not end well, and no query "
        "uses it; REINDEX INDEX CONCURRENTLY ix_title, or DROP INDEX CONCURRENTLY ix_title"
    )
    await project.say("UPDATE shop__item SET title = id::text")
    await alone(project, "REINDEX INDEX CONCURRENTLY ix_title")
    await alone(project, "DROP INDEX CONCURRENTLY ix_ccnew")
    assert await found(project, "indexes") == []


async def alone(project: Project, statement: str) -> None:
    """Execute *statement* outside of a transaction."""
    engine = project.engine()
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(statement))
    finally:
        await engine.dispose()
