"""Moves back, says what the database is at, and prints what would be done."""

import time
from collections.abc import Iterable, Sequence
from copy import copy
from io import StringIO
from typing import Any, Literal, TextIO

from sqlalchemy import Connection, ExecutableDDLElement, Table
from sqlalchemy.engine.mock import MockConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_command import alembic, check_files, configured
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History
from db_manager.migrations.migrating import in_transaction, migrating_engine, one_at_a_time
from db_manager.migrations.moving import Moving, steps_back
from db_manager.migrations.versions import Standing, refuse_half_way, standings
from lifecycle.error_text import tell


async def move(
    config: DatabaseConfig, history: History, verb: Literal["downgrade", "stamp"], target: str
) -> str:
    """Take revisions back, or only say what the database is at.

    Args:
        config: The section [database].
        history: The migrations of a plugin.
        verb: What to do.
        target: The revision; `base` is before the first one.

    Returns:
        The revision that the database is at now, or `base`.

    Raises:
        MigrationError: There is no such revision, it is none to go back to, or one failed; the
            text says what is kept.
        DBAPIError: The database cannot be reached.
    """
    name = history.find(target)
    deadline = time.monotonic() + config.migrate_timeout
    async with migrating_engine(config) as engine, one_at_a_time(engine, config) as lock:
        async with engine.connect() as connection:
            [standing] = await connection.run_sync(standings, [history])
            if verb == "downgrade":
                await connection.run_sync(refuse_half_way, [standing])
        if verb == "downgrade":
            if steps_back(standing, name):
                async with alembic():
                    check_files(history)
            await Moving(engine, history, deadline, lock).down(standing, name)
            return name
        async with alembic() as command, engine.connect() as connection:
            await connection.run_sync(_stamp, command, standing, name)
    return name


def _stamp(connection: Connection, command: Any, standing: Standing, name: str) -> None:
    history, dialect = standing.history, dialect_of(connection.dialect)
    migration = dialect.migration(history.version_table)
    config = in_transaction(connection, history, migration)
    # Alembic goes from one revision to another that it knows.
    command.stamp(config, name, purge=standing.is_ahead)
    dialect.forget_half_way(connection, history.version_table)
    connection.commit()


async def sql_of(
    config: DatabaseConfig,
    verb: Literal["upgrade", "downgrade"],
    found: Iterable[Standing],
    target: str,
    tables: Sequence[Table] = (),
) -> str:
    """Return the SQL of a move, for the database's own program to run; nothing is done.

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
        tables[0].metadata.create_all(printer, tables=tables, checkfirst=False)
    async with alembic() as command:
        for each in found:
            name = each.history.find(target)
            if each.pending if verb == "upgrade" else steps_back(each, name):
                _print(command, verb, each, name, printer, output)
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


def _print(
    command: Any, verb: str, standing: Standing, name: str, printer: MockConnection, output: TextIO
) -> None:
    history, printed = standing.history, StringIO()
    check_files(history)
    offline = configured(
        history,
        printer,
        output=printed,
        literal_binds=True,
        transactional_ddl=dialect_of(printer.dialect).undoes_ddl,
        transaction_per_migration=True,
    )
    try:
        getattr(command, verb)(offline, f"{standing.at or 'base'}:{name}", sql=True)
    except Exception as error:
        what = f"it cannot be printed, only run: {tell(error)}"
        raise MigrationError(history.plugin, name, what) from error
    # It is there and empty when everything was taken back.
    versions = history.version_table
    create = f"CREATE TABLE {versions}"
    output.write(printed.getvalue().replace(create, f"CREATE TABLE IF NOT EXISTS {versions}", 1))
