"""What a generated revision cannot know is in it as a line to write, or on one database only."""

import re
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SAWarning
from support.project import Project
from support.shop import application

TITLED = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    titel: Mapped[str] = mapped_column(String(50))
"""
LIMITED = """
from sqlalchemy import Index, func

class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    note: Mapped[NOTE] = mapped_column(String(50))

Index("ix_lite", Item.note).ddl_if(dialect="sqlite")
Index("ix_servers", Item.title).ddl_if(dialect=("postgresql", "mysql"))
Index("ix_low", func.lower(Item.title)).ddl_if(dialect="postgresql")
Index("ix_asked", Item.title, Item.note).ddl_if(callable_=lambda *_, **__: False)
"""
#: Which of these indexes are made on each database.
MADE = {
    "sqlite": {"ix_lite"},
    "postgresql": {"ix_servers", "ix_low"},
    "mysql": {"ix_servers"},
}
INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE tablename = 'shop__item'",
    "mysql": "SELECT DISTINCT index_name FROM information_schema.statistics"
    " WHERE table_schema = database()",
}
#: A plugin without migrations beside one with a type of PostgreSQL's.
PEOPLE = """
import sqlalchemy as sa

class Colour(enum.Enum):
    RED = 1

class Owner(Base):
    __tablename__ = "people__owner"
    id: Mapped[int] = mapped_column(primary_key=True)

class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    colour: Mapped[Colour] = mapped_column(sa.Enum(Colour, name="colour"))
    owner: Mapped[int | None] = mapped_column(ForeignKey("people__owner.id"))
"""
BLUE = """
def upgrade():
    op.execute("ALTER TYPE colour ADD VALUE 'BLUE'")
"""
WARNS = """
from sqlalchemy.exc import SAWarning

def upgrade():
    elsewhere = {"__name__": "elsewhere", "kind": SAWarning}
    exec("__import__('warnings').warn('an expression of a handler', kind)", elsewhere)
"""


async def test_a_renamed_column_has_its_line_in_the_file(project: Project) -> None:
    """Written for the two lines, it keeps the values, and is what the models say, NOT NULL too."""
    project.models(TITLED)
    await project.revision()
    await project.upgrade()
    await project.say("INSERT INTO shop__item (id, titel) VALUES (1, 'tea')")
    project.models(TITLED.replace("titel", "title"))
    generated = await project.revision()
    assert generated is not None
    text = generated.file.read_text(encoding="utf-8")
    line, back = re.findall(r"# ! renamed\? Write this .*: (batch_op\.alter_column\(.*\))", text)
    assert "drops titel of shop__item with its values" in generated.remarks
    generated.file.unlink()
    batch = "    with op.batch_alter_table('shop__item') as batch_op:\n        "
    code = f"def upgrade():\n{batch}{line}\ndef downgrade():\n{batch}{back}\n"
    project.write("0002_title", code, after="0001_first")
    assert await project.upgrade() == ["0002_title"]
    assert await project.say("SELECT title FROM shop__item") == [("tea",)]
    assert await project.revision() is None
    await project.move("downgrade", "0001")
    assert await project.say("SELECT titel FROM shop__item") == [("tea",)]


async def test_a_column_that_is_dropped_alone_was_not_renamed(sqlite_project: Project) -> None:
    """Then there is no line to write."""
    sqlite_project.models(TITLED)
    await sqlite_project.revision()
    sqlite_project.models(
        TITLED.replace("    titel: Mapped[str] = mapped_column(String(50))\n", "")
    )
    generated = await sqlite_project.revision()
    assert generated is not None
    assert generated.remarks == ("drops titel of shop__item with its values",)


async def test_an_index_for_one_database_is_made_there_only(
    project: Project, sqlite_database: URL
) -> None:
    """`ddl_if` holds in revisions too, also in those of an author with another database."""
    author = Project.on(project.folder, sqlite_database)
    author.models(LIMITED.replace("NOTE", "str"))
    first = await author.revision()
    assert first is not None
    assert first.remarks == ("ix_asked is made where a function says so: write it by hand",)
    assert await author.revision() is None
    project.metadata = author.metadata
    assert await project.revision() is None
    await project.upgrade()
    backend = make_url(project.url).get_backend_name()

    async def made() -> set[object]:
        return {n for (n,) in await project.say(INDEXES[backend]) if str(n).startswith("ix_")}

    assert await made() == MADE[backend]
    author.models(LIMITED.replace("NOTE", "str | None"))
    assert await author.revision() is not None
    await project.upgrade()
    assert await made() == MADE[backend]
    await project.move("downgrade", "base")


async def test_a_type_is_what_its_revisions_make_of_it(
    tmp_path: Path, postgres_database: URL
) -> None:
    """On a new database, beside a plugin whose tables are created from the models before them."""
    project = Project.at(tmp_path / "project", postgres_database)
    project.models(PEOPLE)
    await project.revision("shop")
    project.models(PEOPLE.replace("    RED = 1\n", "    RED = 1\n    BLUE = 2\n"))
    project.write("0002_blue", BLUE, after="0001_first")
    async with application(project):
        labels = await project.say("SELECT unnest(enum_range(NULL::colour))::text")
        assert labels == [("RED",), ("BLUE",)]
        assert await project.say("SELECT count(*) FROM people__owner") == [(0,)]
    assert await project.revision("shop") is None


async def test_warnings_of_others_are_heard_while_a_migration_runs(sqlite_project: Project) -> None:
    """Only what revisions cannot read is silent, and not what a handler warns of meanwhile."""
    sqlite_project.models(TITLED)
    sqlite_project.write("0001_first", WARNS)
    with pytest.warns(SAWarning, match="an expression of a handler"):
        await sqlite_project.upgrade()
