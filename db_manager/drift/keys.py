"""Compares what keeps rows in order: indexes, and unique, foreign key and check constraints.

Columns are compared and not names, because the same constraint may have any name. Only a check has
nothing but its name: databases rewrite its condition.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    Column,
    Constraint,
    ForeignKeyConstraint,
    Index,
    Table,
    UniqueConstraint,
    exc,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.schema import CreateTable

from db_manager.dialects.known import dialect_of
from db_manager.drift.cures import Cures
from db_manager.drift.difference import Difference

#: What an inspection says of one table, by the kind of thing: `indexes`, `check_constraints`, …
Reflected = Mapping[str, Any]


class _Key(NamedTuple):
    """Columns that the database finds rows by: of an index, a unique constraint, a primary key."""

    columns: tuple[str, ...]
    unique: bool
    partial: bool


def key_differences(table: Table, reflected: Reflected, dialect: Dialect) -> Iterator[Difference]:
    """Yield which indexes and constraints of a model its table lacks.

    Args:
        table: The model's table.
        reflected: Those that the database has.
        dialect: SQLAlchemy's dialect of the connection.
    """
    cures = Cures(dialect)
    key = dialect_of(dialect).column_key
    keys = list(_keys(reflected, key))
    lacks = f"{table.fullname} has no"
    for index in filter(_is_comparable, table.indexes):
        if not any(_serves(found, index, key) for found in keys):
            what = f"{'unique index' if index.unique else 'index'} on {_listed(index.columns)}"
            yield Difference(f"{lacks} {what}", cures.add_index(index))
    for constraint in filter(_is_comparable, table.constraints):
        if what := _lacking(constraint, keys, reflected["foreign_keys"], key):
            yield Difference(f"{lacks} {what}", cures.add_constraint(table, constraint))
    for name, check in _missing_checks(table, reflected["check_constraints"], dialect):
        what = f"{lacks} check constraint {name}"
        yield Difference(what, cures.add_constraint(table, check))


def _lacking(
    constraint: Constraint,
    keys: list[_Key],
    references: Iterable[Mapping[str, Any]],
    key: Callable[[str], str],
) -> str:
    """Say what *constraint* is, when the table lacks it."""
    if isinstance(constraint, UniqueConstraint):
        there = any(_makes_unique(found, constraint, key) for found in keys)
        return "" if there else f"unique constraint on {_listed(constraint.columns)}"
    if isinstance(constraint, ForeignKeyConstraint):
        there = any(_refers(found, constraint, key) for found in references)
        to = constraint.referred_table.fullname
        return "" if there else f"foreign key from {_listed(constraint.columns)} to {to}"
    return ""


def _keys(reflected: Reflected, key: Callable[[str], str]) -> Iterator[_Key]:
    for index in reflected["indexes"]:
        options = index.get("dialect_options", {})
        included = next((v for k, v in options.items() if k.endswith("_include")), ())
        columns = [name for name in index["column_names"] if name not in included]
        if None not in columns:  # that of an expression
            partial = any(option.endswith("_where") for option in options)
            yield _Key(tuple(map(key, columns)), bool(index["unique"]), partial)
    for constraint in reflected["unique_constraints"]:
        yield _Key(tuple(map(key, constraint["column_names"])), unique=True, partial=False)
    primary = reflected["pk_constraint"]["constrained_columns"]
    yield _Key(tuple(map(key, primary)), unique=True, partial=False)


def _is_comparable(item: Any) -> bool:
    """Return False for what is made on some databases only, or on expressions."""
    if getattr(item, "_ddl_if", None) is not None:
        return False
    if isinstance(item, Index):
        return all(isinstance(each, Column) for each in item.expressions)
    if isinstance(item, ForeignKeyConstraint):
        try:
            item.referred_table  # noqa: B018 -- it raises when the other table is in no model
        except exc.NoReferenceError:
            return False
    return True


def _serves(found: _Key, index: Index, key: Callable[[str], str]) -> bool:
    partial = any(options.get("where") is not None for options in index.dialect_options.values())
    return (
        found.columns == tuple(key(column.name) for column in index.columns)
        and (found.unique or not index.unique)
        and (partial or not found.partial)
    )


def _makes_unique(found: _Key, constraint: UniqueConstraint, key: Callable[[str], str]) -> bool:
    wanted = {key(column.name) for column in constraint.columns}
    return found.unique and not found.partial and set(found.columns) == wanted


def _refers(
    found: Mapping[str, Any], constraint: ForeignKeyConstraint, key: Callable[[str], str]
) -> bool:
    wanted = {(key(each.parent.name), key(each.column.name)) for each in constraint.elements}
    pairs = zip(found["constrained_columns"], found["referred_columns"], strict=False)
    return (
        found["referred_table"].casefold() == constraint.referred_table.name.casefold()
        and {(key(ours), key(theirs)) for ours, theirs in pairs} == wanted
    )


def _missing_checks(
    table: Table, reflected: Iterable[Mapping[str, Any]], dialect: Dialect
) -> Iterator[tuple[str, CheckConstraint]]:
    """Yield the checks that cannot be there under any name.

    A check that the model does not know may be one that it lacks, under another name.
    """
    wanted = _named_checks(table, dialect)
    there = [each["name"] for each in reflected]
    lacking = {name: check for name, check in wanted.items() if name not in there}
    others = [name for name in there if name not in wanted]
    if len(others) < len(lacking):
        yield from lacking.items()


def _named_checks(table: Table, dialect: Dialect) -> dict[str, CheckConstraint]:
    """Return the checks of a table that CREATE TABLE makes on this database, by their names."""
    names = dialect.identifier_preparer
    found = {}
    try:
        created = str(CreateTable(table).compile(dialect=dialect))
        for constraint in table.constraints:
            if not isinstance(constraint, CheckConstraint) or constraint.name is None:
                continue
            name = names.format_constraint(constraint)
            if name and f"CONSTRAINT {name} CHECK" in created:
                found[names.unformat_identifiers(name)[0]] = constraint
    except exc.SQLAlchemyError:  # the table cannot be made here
        return {}
    return found


def _listed(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(str(column.name) for column in columns)
