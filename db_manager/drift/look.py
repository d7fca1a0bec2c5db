"""Looks at the tables of a database, and says how they differ from their models."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, MetaData, Table, exc, inspect
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.drift.columns import column_differences
from db_manager.drift.difference import Difference, SchemaDriftError
from db_manager.drift.keys import key_differences
from db_manager.schema import missing_tables

_KEYS: Final = (
    *("indexes", "unique_constraints", "pk_constraint"),
    *("foreign_keys", "check_constraints"),
)


def differences(
    connection: Connection, metadata: MetaData, *, among: Collection[Table] | None = None
) -> list[Difference]:
    """Return how the tables that exist differ from those of *metadata*.

    Args:
        connection: SQLAlchemy's synchronous connection.
        metadata: The tables of the models.
        among: Compare these only.
    """
    return _look(connection, metadata.sorted_tables if among is None else among, keys=True)


async def differences_at_start(
    engine: AsyncEngine, metadata: MetaData, section: str, *, refuse: bool
) -> tuple[str, ...]:
    """Return how tables and columns differ from *metadata*; indexes and constraints can wait.

    Args:
        engine: The engine.
        metadata: The tables that should exist.
        section: The section of the database, for the error.
        refuse: Raise when the models cannot work.

    Returns:
        A line for each difference.

    Raises:
        SchemaDriftError: A table or a column is missing.
    """
    if not metadata.tables:
        return ()
    async with engine.connect() as connection:
        missing = await connection.run_sync(missing_tables, metadata)
        found = await connection.run_sync(_look, metadata.sorted_tables, keys=False)
    absent = [f"there is no table {name}" for name in missing]
    breaking = absent + [each.what for each in found if each.breaks]
    if refuse and breaking:
        raise SchemaDriftError(breaking, section)
    return tuple(absent + [each.what for each in found])


def _look(connection: Connection, tables: Collection[Table], *, keys: bool) -> list[Difference]:
    inspector = inspect(connection)
    found: list[Difference] = []
    with warnings.catch_warnings():
        # Of a type or an index that SQLAlchemy does not know: it is not compared.
        warnings.simplefilter("ignore", exc.SAWarning)
        for schema in sorted({table.schema or "" for table in tables}):
            of_schema = [each for each in tables if (each.schema or "") == schema]
            found += _look_at(inspector, of_schema, schema or None, keys=keys)
    return found


def _look_at(
    inspector: Inspector, tables: list[Table], schema: str | None, *, keys: bool
) -> Iterator[Difference]:
    """Yield how the tables of one schema differ, after a few queries for all of them."""
    names = [table.name for table in tables]
    columns = inspector.get_multi_columns(schema, names)
    reflected: dict[str, Any] = {}
    if keys:
        with suppress(NotImplementedError):  # a database that cannot tell all of them
            reflected = {
                kind: getattr(inspector, f"get_multi_{kind}")(schema, names) for kind in _KEYS
            }
    for table in tables:
        found = columns.get((schema, table.name))
        if not found:
            continue  # the table is missing
        yield from column_differences(table, found, inspector.dialect)
        if reflected:
            of_table = {kind: each[schema, table.name] for kind, each in reflected.items()}
            yield from sorted(key_differences(table, of_table, inspector.dialect))
