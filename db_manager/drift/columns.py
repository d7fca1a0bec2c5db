"""Compares columns: which are missing, have another type, or may be NULL where they must not."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Column, Enum, Table, exc
from sqlalchemy.engine.interfaces import Dialect, ReflectedColumn
from sqlalchemy.types import TypeEngine

from db_manager.dialects.known import dialect_of
from db_manager.drift.cures import Cures
from db_manager.drift.difference import Difference

_LET_GO: Final = "let it be NULL or have a default; RENAME COLUMN if the model renamed it"


def column_differences(
    table: Table, reflected: list[ReflectedColumn], dialect: Dialect
) -> Iterator[Difference]:
    """Yield how the columns of a table differ from those of its model.

    Args:
        table: The model's table.
        reflected: The columns that the database has.
        dialect: SQLAlchemy's dialect of the connection.
    """
    cures = Cures(dialect)
    key = dialect_of(dialect).column_key
    there = {key(each["name"]): each for each in reflected}
    for column in table.columns:
        found = there.pop(key(column.name), None)
        if column.system:  # PostgreSQL's own, as xmin: it is in every table and in no inspection
            continue
        if found is None:
            what = f"{table.fullname} has no column {column.name}"
            yield Difference(what, cures.add_column(column), breaks=True)
        else:
            yield from _compared(column, found, dialect, cures)
    for extra in there.values():
        if _must_be_given(extra):
            what = f"{table.fullname}.{extra['name']} is NOT NULL, and no column of the model"
            yield Difference(what, _LET_GO)


def _compared(
    column: Column[Any], found: ReflectedColumn, dialect: Dialect, cures: Cures
) -> Iterator[Difference]:
    me = f"{column.table.fullname}.{column.name}"
    if says := _type_difference(column.type, found["type"], dialect):
        yield Difference(f"{me} is {says}", cures.change_type(column))
    elif labels := _missing_labels(column.type, found["type"]):
        what = f"{me} has a type without {', '.join(map(repr, labels))}"
        yield Difference(what, cures.add_labels(column, labels))
    # What a primary key says of NULL is not what is written at its columns.
    if column.nullable != found["nullable"] and not column.primary_key:
        has, wants = "may be NULL", "is NOT NULL"
        if column.nullable:
            has, wants = wants, has
        yield Difference(f"{me} {has}, in the model it {wants}", cures.change_null(column))


def _type_difference(model: TypeEngine[Any], found: TypeEngine[Any], dialect: Dialect) -> str:
    """Say which type a column has and which the model; nothing when they are stored alike."""
    ours = dialect_of(dialect)
    try:
        texts = [each.compile(dialect=dialect) for each in (found, model)]
    except exc.SQLAlchemyError:  # SQLAlchemy does not know the type, or the database does not
        return ""
    has, wants = (
        ours.stored_type(each, text) for each, text in zip((found, model), texts, strict=True)
    )
    if None in {has, wants} or has == wants:
        return ""
    return f"{texts[0]}, in the model {texts[1]}"


def _missing_labels(model: TypeEngine[Any], found: TypeEngine[Any]) -> list[str]:
    """Return the values of an enumeration that the database would refuse."""
    if not (isinstance(model, Enum) and isinstance(found, Enum)):
        return []
    return [label for label in model.enums if label not in found.enums]


def _must_be_given(found: Mapping[str, Any]) -> bool:
    """Return True when an INSERT that does not know the column fails."""
    return not (
        found["nullable"]
        or found.get("default") is not None
        or found.get("computed")
        or found.get("identity")
        or found.get("autoincrement") is True
        or found.get("primary_key")
    )
