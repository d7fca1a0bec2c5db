"""What migrations would do to rows and histories if nobody looked: M4 and M12."""

import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.project import Project
from support.shop import SECOND, application, shop_at
from support.stock_alembic import upgrade_alone

from db_manager.dialects.sqlite.aiosqlite import Aiosqlite
from db_manager.migrations.failure import MigrationError
from lifecycle.errors import PluginFailedError

BEFORE = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40))

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id", ondelete="CASCADE"), index=True)
"""
#: A change for which SQLite makes the table anew.
AFTER = BEFORE.replace("title: Mapped[str]", "title: Mapped[str | None]").replace("40", "80")

Row = Callable[..., None]
Way = Callable[[Project], Awaitable[None]]


# -- M4 -----------------------------------------------------------------------------------


async def change_with_rows(project: Project) -> None:
    """Change a table that others refer to, back and again; its rows and children stay.

    Raises:
        AssertionError: Some are gone.
    """
    project.models(BEFORE)
    await project.revision()
    await project.upgrade()
    await project.say(
        "INSERT INTO shop__item (id, title) VALUES (1, 'tea'), (2, 'cake')",
        "INSERT INTO shop__part (id, item) VALUES (1, 1), (2, 2), (3, 2)",
    )
    project.models(AFTER)
    assert await project.revision() is not None
    for back in (False, True, False):
        await (project.move("downgrade", "0001") if back else project.upgrade())
        assert await project.say("SELECT id, title FROM shop__item") == [(1, "tea"), (2, "cake")]
        found = await project.say("SELECT id, item FROM shop__part ORDER BY id")
        assert found == [(1, 1), (2, 2), (3, 2)]


async def test_rows_and_children_are_kept(tmp_path: Path, url: URL, row: Row) -> None:
    """M4: a table that others refer to is changed, taken back, and changed again."""
    await change_with_rows(Project.at(tmp_path / "shop", url))
    row(
        "M4",
        load=f"{url.drivername}: a table with children (ON DELETE CASCADE) up, down and up",
        result="2 of 2 rows and 3 of 3 children kept",
    )


async def test_with_foreign_keys_on_the_children_are_gone(
    tmp_path: Path, sqlite_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M4, the wrong way: SQLite drops the old table, and ON DELETE CASCADE does the rest."""
    monkeypatch.setattr(Aiosqlite, "migration_arguments", {})
    project = Project.at(tmp_path / "shop", sqlite_database)
    with pytest.raises(AssertionError):
        await change_with_rows(project)
    assert await project.say("SELECT id FROM shop__part") == []


# -- M12 ----------------------------------------------------------------------------------


def two_heads(project: Project) -> tuple[str, str]:
    """Let two revisions follow one, as after a merge of two branches; return their files."""
    project.write("0002_other", SECOND, after="0001_first")
    return "0002_second.py", "0002_other.py"


def twin_ids(project: Project) -> tuple[str, str]:
    """Let two files have one id; return their names."""
    file = project.folder / "migrations" / "shop" / "0002_second.py"
    file.with_name("0002_twin.py").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return "0002_second.py", "0002_twin.py"


async def load(project: Project) -> None:
    """Load a bot, as each start begins; nothing is connected there.

    Raises:
        MigrationError: Its plugin says that the history is broken.
    """
    app = application(project)
    try:
        await app.load()
    except PluginFailedError as error:
        raise error.__cause__ or error from None
    finally:
        await app.unload()


async def stock(project: Project) -> None:
    """Let Alembic alone upgrade, to all the heads that it finds."""
    engine = project.engine()
    async with engine.connect() as connection:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of twins, and goes on
            folder = project.folder / "migrations" / "shop"
            await connection.run_sync(upgrade_alone, folder, "heads")
    await engine.dispose()


def is_there(project: Project) -> bool:
    """Return whether somebody has connected to the SQLite file of *project*."""
    return Path(project.engine().url.database or "").exists()


async def assert_refused(project: Project, files: tuple[str, str], way: Way) -> None:
    """Assert that *way* refuses a history, names its files, and has connected nothing."""
    with pytest.raises(MigrationError) as caught:
        await way(project)
    assert all(file in str(caught.value) for file in files)
    assert not is_there(project)


BREAK = {"two heads": two_heads, "twin ids": twin_ids}


@pytest.mark.parametrize("how", list(BREAK))
async def test_a_broken_history_is_refused(
    tmp_path: Path, sqlite_database: URL, how: str, row: Row
) -> None:
    """M12: before anything is connected, with the names of both files."""
    project = shop_at(tmp_path / "shop", sqlite_database)
    await assert_refused(project, BREAK[how](project), load)
    row("M12", load=how, result="refused when the plugin loads; both files named, no database made")


@pytest.mark.parametrize("how", list(BREAK))
async def test_alembic_alone_refuses_neither(
    tmp_path: Path, sqlite_database: URL, how: str
) -> None:
    """M12, the wrong way: of two heads it fails in the second, of twins one is never run."""
    project = shop_at(tmp_path / "shop", sqlite_database)
    files = BREAK[how](project)
    if how == "two heads":
        project.write(
            "0002_other", SECOND.replace('"n"', '"m"').replace("n =", "m ="), after="0001_first"
        )
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await assert_refused(project, files, stock)
    assert is_there(project)
