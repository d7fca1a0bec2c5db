"""The declarative Base: names of tables and constraints, one owner for each table."""

import enum
from typing import Literal

import pytest
from sqlalchemy import CheckConstraint, Column, ForeignKey, Integer, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.schema import CreateTable

from db_manager.base import ENUM_LENGTH, Base
from db_manager.errors import TableNameError


class Shelf(Base):
    """A table as it should be."""

    __tablename__ = "base_test__shelf"
    __table_args__ = (CheckConstraint("id > 0", name="positive"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    place: Mapped[str] = mapped_column(index=True)
    above: Mapped[int | None] = mapped_column(ForeignKey("base_test__shelf.id"))


class Colour(enum.Enum):
    """What Python has for a choice."""

    RED = 1
    BLUE = 2


class Paint(Base):
    """A model with choices."""

    __tablename__ = "base_test__paint"

    id: Mapped[int] = mapped_column(primary_key=True)
    colour: Mapped[Colour]
    second: Mapped[Colour | None]
    kind: Mapped[Literal["matt", "bright"]]


class TallShelf(Shelf):
    """A model without a table of its own needs no name."""


def test_constraints_have_names() -> None:
    """Every constraint and index has a name that migrations can refer to."""
    table = Base.metadata.tables["base_test__shelf"]
    assert {str(constraint.name) for constraint in table.constraints} == {
        "pk_base_test__shelf",
        "uq_base_test__shelf_title",
        "ck_base_test__shelf_positive",
        "fk_base_test__shelf_above_base_test__shelf",
    }
    assert [index.name for index in table.indexes] == ["ix_base_test__shelf_place"]


@pytest.mark.parametrize("module", [postgresql, mysql, sqlite])
def test_choices_are_strings(module: object) -> None:
    """No database gets a type of its own for an enumeration or a `Literal`."""
    dialect = module.dialect()  # type: ignore[attr-defined]  # each module has it
    table = Base.metadata.tables["base_test__paint"]
    statement = str(CreateTable(table).compile(dialect=dialect))
    assert statement.count(f"VARCHAR({ENUM_LENGTH})") == 3
    assert "ENUM" not in statement


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("notes", "test_base__notes"),
        ("Notes__Note", "test_base__notes__note"),
        ("notes_note", "test_base__notes_note"),
        ("__note", "test_base__note"),
        ("notes__", "test_base__notes"),
        ('t"; drop table x', "test_base__t___drop_table_x"),
        ("notes__note\n", "test_base__notes__note"),
        ("notes__" + "x" * 57, ("test_base__notes__" + "x" * 57)[:63]),
    ],
)
def test_a_wrong_name_is_reported_with_a_right_one(name: str, right: str) -> None:
    """A table whose name breaks the convention is refused, with one that does not."""
    with pytest.raises(TableNameError) as caught:
        type("Wrong", (Base,), {"__tablename__": name, "__module__": __name__})
    assert str(caught.value) == (
        f"model {__name__}.Wrong: the table {name!r} must be named plugin_name__table_name, in "
        f"lower case, at most 63 characters; for example {right!r}"
    )
    assert name not in Base.metadata.tables


def test_the_right_name_is_accepted() -> None:
    """What the refusal recommends is accepted."""
    model = type(
        "Right",
        (Base,),
        {
            "__tablename__": "test_base__notes",
            "__module__": __name__,
            "id": mapped_column(Integer, primary_key=True),
        },
    )
    assert model.__table__ is Base.metadata.tables["test_base__notes"]  # type: ignore[attr-defined]  # made by SQLAlchemy


def test_a_table_object_is_checked_too() -> None:
    """A model that brings its Table instead of a name is held to the same convention."""
    table = Table("shelves", Base.metadata, Column("id", Integer, primary_key=True))
    try:
        with pytest.raises(TableNameError, match="for example 'test_base__shelves'"):
            type("Wrong", (Base,), {"__table__": table, "__module__": __name__})
    finally:
        Base.metadata.remove(table)


class Named:
    """A mixin that names the table after the class."""

    @declared_attr.directive
    def __tablename__(cls: type) -> str:  # noqa: N805 -- SQLAlchemy calls it with the class
        """Return the name of the table."""
        return cls.__name__.lower()


class Prefixed:
    """A mixin that names the table as a plugin should."""

    @declared_attr.directive
    def __tablename__(cls: type) -> str:  # noqa: N805 -- as above
        """Return the name of the table."""
        return f"base_test__{cls.__name__.lower()}"


@pytest.mark.parametrize("mixin", [Named, type("Plain", (), {"__tablename__": "wrong"})])
@pytest.mark.parametrize("abstract", [True, False])
def test_the_name_from_a_mixin_is_checked_too(mixin: type, *, abstract: bool) -> None:
    """It is refused as a name in the class is, also below an abstract class."""
    above = type("Above", (mixin, Base), {"__abstract__": True}) if abstract else None
    bases = (above,) if above is not None else (mixin, Base)
    fields = {"id": mapped_column(Integer, primary_key=True), "__module__": __name__}
    with pytest.raises(TableNameError, match=r"Wrong: the table 'wrong' must be named"):
        type("Wrong", bases, dict(fields))
    assert "wrong" not in Base.metadata.tables


def test_a_good_name_from_a_mixin_is_accepted() -> None:
    """A model with such a mixin is mapped, and its table has one owner."""
    fields = {"id": mapped_column(Integer, primary_key=True), "__module__": __name__}
    right = type("Mixed", (Prefixed, Base), dict(fields))
    assert right.__table__.name == "base_test__mixed"  # type: ignore[attr-defined]  # made by SQLAlchemy
    with pytest.raises(TableNameError, match=r"is claimed by .*Mixed and by .*Mixed"):
        type("Mixed", (Prefixed, Base), dict(fields))


def test_two_owners_are_both_named() -> None:
    """Two models that claim one table are refused, with both names."""
    with pytest.raises(TableNameError) as caught:
        type("Thief", (Base,), {"__tablename__": "base_test__shelf", "__module__": "thieves"})
    assert str(caught.value) == (
        f"the table 'base_test__shelf' is claimed by {__name__}.Shelf and by thieves.Thief; "
        f"rename one of them; the tables of a plugin begin with the plugin's name"
    )
