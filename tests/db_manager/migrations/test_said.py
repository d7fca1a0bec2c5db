"""What is wrong with a revision, or with a target, is said with its file and with what to do."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.project import Project

from db_manager.migrations.failure import MigrationError

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
"""
FIRST = """
def upgrade():
    op.create_table("shop__item", sa.Column("id", sa.Integer, primary_key=True))

def downgrade():
    op.drop_table("shop__item")
"""
SECOND = """
def upgrade():
    op.add_column("shop__item", sa.Column("title", sa.String(50)))

def downgrade():
    op.drop_column("shop__item", "title")
"""
PASS = "def upgrade():\n    pass\n"
BAD = """
def upgrade():
    pass

def downgrade():
    op.drop_column("shop__item", "title")
    op.drop_table("shop__nothing")
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with two revisions, once on each database."""
    return _with_two_revisions(project)


@pytest.fixture
def sqlite_shop(sqlite_project: Project) -> Project:
    """A project with two revisions, on SQLite."""
    return _with_two_revisions(sqlite_project)


def _with_two_revisions(project: Project) -> Project:
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_title", SECOND, after="0001_first")
    return project


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def upgrade(:\n", r"0003_x of 'shop': SyntaxError: .*\(0003_x\.py, line 5\)"),
        ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("from alembic.op import nothing\n", "ImportError: cannot import name 'nothing'"),
        ("raise ValueError('not today')\n", "ValueError: not today"),
        ("x = 1\n", r"0003_x\.py has no function upgrade\(\)"),
    ],
    ids=["syntax", "module", "name", "raises", "no upgrade"],
)
async def test_a_file_that_cannot_be_run_stops_all_before_it(
    sqlite_shop: Project, code: str, said: str
) -> None:
    """Alembic runs every file first, so the one that cannot be is named, and nothing is done."""
    sqlite_shop.write("0003_x", code, after="0002_title")
    with pytest.raises(MigrationError, match=said) as caught:
        await sqlite_shop.upgrade()
    assert caught.value.revision == "0003_x"
    assert "nothing was done" in str(caught.value)
    assert sqlite_shop.events == []
    assert await sqlite_shop.say("SELECT name FROM sqlite_master") == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda file: file.write_bytes(b"revision = 'x'\n# \xff"),
            r"0003_x\.py is not UTF-8 \(byte 17\): save it as UTF-8",
        ),
        (lambda file: file.symlink_to("nowhere"), r"0003_x\.py: No such file or directory"),
        (Path.mkdir, r"0003_x\.py: Is a directory"),
        (
            lambda file: file.write_text("x = 1\n"),
            r"0003_x\.py says no revision, .* write revision = '0003_x' into it, or move it",
        ),
        (
            lambda file: file.write_text(f"revision = '0003_{'x' * 30}'\n"),
            r"0003_x\.py: an id has at most 32 characters in the database; shorten it",
        ),
        (lambda file: file.write_text("revision = 3\n"), "revision must be a string, not '3'"),
        (lambda file: file.write_text("revision = ''\n"), "revision must be a string, not"),
    ],
    ids=["no UTF-8", "dangling", "folder", "none", "long", "number", "empty"],
)
def test_a_file_that_cannot_be_read_is_named(
    sqlite_shop: Project, spoil: Callable[[Path], None], said: str
) -> None:
    """Whoever reads the histories learns it, before anything is connected."""
    spoil(sqlite_shop.folder / "migrations" / "shop" / "0003_x.py")
    with pytest.raises(MigrationError, match=said):
        sqlite_shop.histories  # noqa: B018 -- it reads the files


@contextmanager
def somebody() -> Iterator[None]:
    """Be an account that is not root."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("which", ["migrations/shop", "migrations"])
def test_a_folder_that_may_not_be_read_is_no_empty_one(sqlite_shop: Project, which: str) -> None:
    """Else the plugin would be one without migrations: its tables would be created."""
    for parent in (sqlite_shop.folder, *sqlite_shop.folder.parents[:3]):
        parent.chmod(0o755)
    closed = sqlite_shop.folder / which
    closed.chmod(0)
    try:
        with somebody(), pytest.raises(MigrationError, match="Permission denied: let this") as e:
            sqlite_shop.histories  # noqa: B018 -- it reads the files
    finally:
        closed.chmod(0o755)
    assert str(e.value).startswith("the migrations of 'shop': ")


async def test_a_target_must_be_on_the_way(shop: Project) -> None:
    """Up to what is behind, down to what is ahead, and what is nowhere, are refused with the way.

    The first of them once went on beyond its target.
    """
    shop.write("0003_pass", PASS, after="0002_title")
    await shop.upgrade("0002")
    with pytest.raises(MigrationError, match="comes after it; `db-manager migrate downgrade shop"):
        await shop.upgrade("0001")
    with pytest.raises(MigrationError, match="comes before it; `db-manager migrate upgrade shop"):
        await shop.move("downgrade", "0003")
    for go in (shop.upgrade, partial(shop.move, "downgrade"), partial(shop.move, "stamp")):
        with pytest.raises(MigrationError, match="no revision begins so; there are 0001_first, 00"):
            await go("0007")
    assert await at(shop) == "0002_title"
    await shop.move("downgrade", "0002")
    await shop.upgrade("0002")
    assert await at(shop) == "0002_title"


async def at(project: Project) -> object:
    """Return what the database says that it is at."""
    found = await project.say("SELECT version_num FROM shop__alembic_version")
    return found[0][0] if found else None


async def test_what_is_unknown_is_left_by_a_stamp_only(shop: Project) -> None:
    """A rewritten revision is unknown: it cannot be taken back, but said to be another one."""
    await shop.upgrade()
    await shop.say("UPDATE shop__alembic_version SET version_num = '0002_rewritten'")
    with pytest.raises(MigrationError, match="no file has it; take it back with the code that"):
        await shop.move("downgrade", "0001")
    await shop.move("stamp", "0002")
    assert await at(shop) == "0002_title"


async def test_a_downgrade_that_fails_says_what_is_kept(shop: Project) -> None:
    """What was taken back before it stays so, and the file is named that has to be corrected."""
    shop.write("0003_bad", BAD, after="0002_title")
    shop.write("0004_good", PASS + "def downgrade():\n    pass\n", after="0003_bad")
    await shop.upgrade()
    with pytest.raises(MigrationError, match="migration 0003_bad of 'shop'") as caught:
        await shop.move("downgrade", "base")
    assert await at(shop) == "0003_bad"
    said = str(caught.value)
    if caught.value.kept:  # MariaDB commits each DDL statement
        assert "1 statement of it stayed" in said
        assert re.search("stamp shop 0002_title`, or undo .* stamp shop 0003_bad`", said)
    else:
        assert "the database is at 0003_bad still; correct the file" in said
        await shop.say("SELECT title FROM shop__item")


async def test_without_a_downgrade_there_is_no_way_back(sqlite_shop: Project) -> None:
    """A revision may leave it out, and then says so."""
    sqlite_shop.write("0003_pass", PASS, after="0002_title")
    await sqlite_shop.upgrade()
    with pytest.raises(MigrationError, match=r"its file has no function downgrade\(\)"):
        await sqlite_shop.move("downgrade", "0001")
    assert await at(sqlite_shop) == "0003_pass"
