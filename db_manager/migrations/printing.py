"""Prints the SQL of a move, for the database's own program to run."""

from collections.abc import Iterable, Sequence
from copy import copy
from io import StringIO
from typing import Any, TextIO

from sqlalchemy import ExecutableDDLElement, Table
from sqlalchemy.engine.mock import MockConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_context import alembic, environment, run_files
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History, Step
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.versions import Standing, Verb
from db_manager.schema import create_tables
from lifecycle.error_text import tell


async def sql_of(
    config: DatabaseConfig,
    verb: Verb,
    found: Iterable[Standing],
    target: str,
    tables: Sequence[Table] = (),
) -> str:
    """Return the SQL of a move; nothing is done.

    Args:
        config: The section [database].
        verb: What would be done.
        found: Where the database stands in each of the histories.
        target: The revision.
        tables: Those to create before.

    Raises:
        MigrationError: There is no such revision, or it cannot be printed.
        DBAPIError: The server cannot be reached.
    """
    output = StringIO()
    printer = await _printer(config, output)
    if tables:
        create_tables(printer, tables[0].metadata, tables, checkfirst=False)
    async with alembic():
        for each in found:
            if steps := each.way(verb, target):
                output.write(_printed(printer, each.history, steps))
    return output.getvalue()


async def _printer(config: DatabaseConfig, output: TextIO) -> MockConnection:
    """Return what writes SQL as the server of the configured database reads it."""

    def write(statement: ExecutableDDLElement, *_: Any, **__: Any) -> None:
        output.write(f"{str(statement.compile(dialect=printer.dialect)).strip()};\n\n")

    has_server = dialect_at(database_url(config)[0]).has_server
    async with migrating_engine(config) as engine:
        if has_server:  # what it can do depends on its version
            async with engine.connect():
                pass
        dialect = copy(engine.dialect)
    dialect.paramstyle, dialect.positional = "named", False  # others double the signs %
    dialect.identifier_preparer = dialect.preparer(dialect)
    printer = MockConnection(dialect, write)
    return printer


def _printed(printer: MockConnection, history: History, steps: list[Step]) -> str:
    printed, versions = StringIO(), history.version_table
    scripts = run_files(history)
    try:
        with (
            environment(
                scripts,
                history,
                printer,
                steps,
                as_sql=True,
                starting_rev=steps[0].before or "base",
                output_buffer=printed,
                literal_binds=True,
                transactional_ddl=dialect_of(printer.dialect).undoes_ddl,
                transaction_per_migration=True,
            ) as running,
            running.begin_transaction(),
        ):
            running.run_migrations()
    except Exception as error:
        what = f"it cannot be printed, only run: {tell(error)}"
        raise MigrationError(history.plugin, steps[-1].revision, what) from error
    # It is there and empty when everything was taken back.
    create = f"CREATE TABLE {versions}"
    return printed.getvalue().replace(create, f"CREATE TABLE IF NOT EXISTS {versions}", 1)
