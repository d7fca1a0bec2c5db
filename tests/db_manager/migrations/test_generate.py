"""A revision is generated from the models, and is right on every database, with rows in it."""

from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from support.project import Project

from db_manager.migrations.failure import MigrationError
from db_manager.migrations.revision.generate import differences

FIRST = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40))
    old: Mapped[str | None] = mapped_column(String(40), index=True)

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id", ondelete="CASCADE"), index=True)
"""
#: A change for each: column with a default, enumeration, nullable column, dropped column and index,
#: wider type, check, unique, index, NOT NULL to nullable, new table with a check at a column.
SECOND = """
class Kind(enum.Enum):
    TEA = 1
    CAKE = 2

class Item(Base):
    __tablename__ = "shop__item"
    __table_args__ = (CheckConstraint("price >= 0", name="price"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(80), index=True)
    price: Mapped[int] = mapped_column(default=5)
    kind: Mapped[Kind] = mapped_column(default=Kind.TEA)
    sold: Mapped[bool] = mapped_column(default=False)
    code: Mapped[str | None] = mapped_column(String(10), unique=True)

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id", ondelete="CASCADE"), index=True)

class Box(Base):
    __tablename__ = "shop__box"
    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(CheckConstraint("size > 0", name="size"))
    part: Mapped[int] = mapped_column(ForeignKey("shop__part.id"), index=True)
"""
#: Columns and constraints of every kind that runs on each database.
KINDS = """
import datetime as dt
import sqlalchemy as sa
from decimal import Decimal
from typing import Literal
from uuid import UUID

class Colour(enum.Enum):
    RED = "r"

class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    big: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    small: Mapped[int] = mapped_column(sa.SmallInteger, default=-3)
    short: Mapped[str] = mapped_column(String(40), unique=True)
    long: Mapped[str] = mapped_column(sa.Text)
    sold: Mapped[bool] = mapped_column(default=True)
    off: Mapped[bool] = mapped_column(server_default=sa.false())
    price: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), default=Decimal("1.50"))
    ratio: Mapped[float]
    day: Mapped[dt.date]
    at: Mapped[dt.datetime] = mapped_column(server_default=sa.func.now())
    zoned: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    time: Mapped[dt.time | None]
    lasts: Mapped[dt.timedelta | None]
    data: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    more: Mapped[dict] = mapped_column(sa.JSON)
    key: Mapped[UUID]
    colour: Mapped[Colour] = mapped_column(default=Colour.RED)
    native: Mapped[Colour] = mapped_column(sa.Enum(Colour, name="colour"))
    size: Mapped[Literal["s", "l"]] = mapped_column(default="s")
    said: Mapped[str] = mapped_column(String(40), server_default="it's 5 %", comment="what's said")
    n: Mapped[int] = mapped_column(CheckConstraint("n > 0", name="positive"))
    parent: Mapped[int | None] = mapped_column(ForeignKey("shop__item.id", ondelete="SET NULL"))
    __table_args__ = (
        sa.UniqueConstraint("big", "small"),
        CheckConstraint("small < big", name="order"),
        sa.Index("ix_both", "day", "sold"),
    )

class Part(Base):
    __tablename__ = "shop__part"
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
"""


@pytest.fixture
async def shop(project: Project) -> Project:
    """A project with two tables, and a revision that made them."""
    project.models(FIRST)
    await project.revision()
    await project.upgrade()
    return project


async def rows(project: Project) -> list[list[tuple[object, ...]]]:
    """Return what the two tables hold."""
    return [
        await project.say("SELECT id, title FROM shop__item ORDER BY id"),
        await project.say("SELECT id, item FROM shop__part ORDER BY id"),
    ]


async def test_the_first_one_makes_the_tables(shop: Project) -> None:
    """After it there is nothing to do, and what `create_tables` made would be left alone."""
    assert await shop.revision() is None
    [revision] = shop.histories["shop"].revisions
    text = revision.file.read_text(encoding="utf-8")
    assert revision.file.name == "0001_first.py"
    assert text.count("if_not_exists=True") == 4
    assert "op.drop_index" not in text  # it goes with its table


@pytest.mark.matrix(
    "M5",
    load="columns and constraints of 25 kinds",
    result="nothing is left to do, to the last constraint",
)
async def test_nothing_is_left_to_do_for_any_kind_of_column(project: Project) -> None:
    """M5: what one revision has made is what the models say, to the last constraint."""
    project.models(KINDS)
    assert await project.revision() is not None
    await project.upgrade()
    assert await project.revision() is None
    engine = project.engine()
    async with engine.connect() as connection:
        history = project.histories["shop"]
        differing = await connection.run_sync(differences, history, project.metadata)
    await engine.dispose()
    assert differing == ""


async def test_a_type_that_is_there_is_no_obstacle(postgres_database: URL, tmp_path: Path) -> None:
    """`create_all` made it with the tables of others; with other labels it is another type."""
    project = Project.at(tmp_path / "project", postgres_database)
    project.models(KINDS)
    await project.revision()
    await project.say("CREATE TYPE colour AS ENUM ('BLUE')")
    with pytest.raises(MigrationError, match="in 'CREATE TYPE colour"):
        await project.upgrade()
    await project.say("DROP TYPE colour", "CREATE TYPE colour AS ENUM ('RED')")
    assert await project.upgrade() == ["0001_first"]
    project.models(KINDS.replace('    RED = "r"\n', '    RED = "r"\n    BLUE = "b"\n'))
    more = """
        def upgrade():
            op.execute("ALTER TYPE colour ADD VALUE 'BLUE'")
    """
    project.write("0002_blue", more, after="0001_first")
    assert await project.revision() is None
    assert await project.upgrade() == ["0002_blue"]


async def test_usual_changes_keep_rows_and_children(shop: Project) -> None:
    """Up, down and up again: rows stay, also those that ON DELETE CASCADE would take."""
    await shop.say(
        "INSERT INTO shop__item (id, title) VALUES (1, 'tea'), (2, 'cake')",
        "INSERT INTO shop__part (id, item) VALUES (1, 1), (2, 2)",
    )
    before = await rows(shop)
    shop.models(SECOND)
    generated = await shop.revision()
    assert generated is not None
    assert await shop.upgrade() == [generated.file.stem]
    assert await rows(shop) == before
    kept = await shop.say("SELECT price, kind, sold FROM shop__item")
    assert {(price, kind, bool(sold)) for price, kind, sold in kept} == {(5, "TEA", False)}
    assert await shop.revision() is None
    await shop.move("downgrade", "0001")
    assert await rows(shop) == before
    assert await shop.upgrade() == [generated.file.stem]
    assert await rows(shop) == before
    assert await shop.revision() is None


async def test_what_sqlite_generates_runs_everywhere(
    project: Project, sqlite_database: URL
) -> None:
    """An author with SQLite writes migrations for bots on every database."""
    author = Project.on(project.folder, sqlite_database)
    for models in (FIRST, SECOND):
        author.models(models)
        assert await author.revision() is not None
    project.metadata = author.metadata
    assert len(await project.upgrade()) == 2
    assert await project.revision() is None
    await project.move("downgrade", "base")
    assert len(await project.upgrade()) == 2


async def test_what_loses_data_or_can_fail_is_remarked(sqlite_project: Project) -> None:
    """As a comment in the file, and in what is returned for the terminal."""
    project = sqlite_project
    project.models(FIRST)
    await project.revision()
    project.models(
        """
        class Item(Base):
            __tablename__ = "shop__item"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[int]
            old: Mapped[str] = mapped_column(String(40))
            new: Mapped[str] = mapped_column(unique=True)
        """
    )
    generated = await project.revision()
    assert generated is not None
    text = generated.file.read_text(encoding="utf-8")
    assert all(f"# ! {remark}" in text for remark in generated.remarks)
    said = "\n".join(generated.remarks)
    for part in (
        "drops shop__part with its rows; renamed? op.rename_table keeps them",
        "new of shop__item is NOT NULL without a default",
        "changes the type of title of shop__item",
        "old of shop__item becomes NOT NULL",
        "uq_shop__item_new fails where two rows are equal",
    ):
        assert part in said
    assert len(generated.remarks) == 5
    project.models(FIRST)
    back = await project.revision()
    assert back is not None
    downgrade = back.file.read_text(encoding="utf-8").partition("def downgrade")[2]
    assert "# ! new of shop__item is NOT NULL without a default: this fails" in downgrade


async def test_an_index_on_an_expression_is_made_and_kept(project: Project) -> None:
    """Alembic does not see it on SQLite, which loses it where it makes the table anew."""
    if "mysql" in project.url:  # its grammar has columns only; MySQL 8 knows such indexes
        pytest.skip("not run: MariaDB has no index on an expression")
    model = """
        from sqlalchemy import Index, func

        class Item(Base):
            __tablename__ = "shop__item"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[TYPE] = mapped_column(String(40))
            code: Mapped[str | None] = mapped_column(index=True)

        Index("ix_low", func.lower(Item.title), unique=True)
    """
    project.models(model.replace("TYPE", "str"))
    first = await project.revision()
    assert first is not None
    assert first.file.read_text(encoding="utf-8").count("'ix_low'") == 1
    project.models(model.replace("TYPE", "str | None"))
    second = await project.revision()
    assert second is not None
    is_seen = not project.url.startswith("sqlite")
    assert ("ix_low is on an expression" in "".join(second.remarks)) is not is_seen
    assert await project.upgrade() == [first.file.stem, second.file.stem]
    await project.say("INSERT INTO shop__item (id, title) VALUES (1, 'Tea')")
    with pytest.raises(IntegrityError):
        await project.say("INSERT INTO shop__item (id, title) VALUES (2, 'tea')")
    assert await project.revision() is None


async def test_nothing_is_written_when_it_is_only_asked(sqlite_project: Project) -> None:
    """For CI: what is due has a name, and no file."""
    sqlite_project.models(FIRST)
    generated = await sqlite_project.revision(write=False)
    assert generated is not None
    assert generated.file.stem == "0001_first"
    assert not generated.file.exists()


async def test_only_the_tables_of_the_plugin_are_looked_at(sqlite_project: Project) -> None:
    """Tables of others, in models and in the database, are neither created nor dropped."""
    project = sqlite_project
    project.models(
        FIRST
        + """
class Visit(Base):
    __tablename__ = "guests__visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id"))
"""
    )
    await project.say("CREATE TABLE legacy (id INTEGER)", "CREATE TABLE shop__legacy (id INTEGER)")
    await project.revision()
    generated = await project.revision("guests")
    assert generated is not None
    text = generated.file.read_text(encoding="utf-8")
    assert "guests__visit" in text
    assert "op.create_table('shop" not in text
    assert await project.upgrade() == ["0001_first", "0001_first"]
    assert await project.say("SELECT count(*) FROM shop__legacy") == [(0,)]
