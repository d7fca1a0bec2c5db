"""Moves back, says what the database is at, and prints what would be done."""

from typing import Any, Literal, TextIO

from sqlalchemy import Connection

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_command import alembic, configured
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History
from db_manager.migrations.migrating import in_transaction, migrating_engine, one_at_a_time


async def move(
    config: DatabaseConfig, history: History, verb: Literal["downgrade", "stamp"], target: str
) -> None:
    """Take revisions back, or only say what the database is at.

    Args:
        config: The section [database].
        history: The migrations of a plugin.
        verb: What to do.
        target: The revision; `base` is before the first one.

    Raises:
        MigrationError: There is no such revision.
        DBAPIError: A statement failed.
    """
    name = history.find(target)

    def run(connection: Connection, command: Any) -> None:
        config = in_transaction(connection, history, dialect_of(connection.dialect))
        getattr(command, verb)(config, name)

    async with (
        migrating_engine(config) as engine,
        one_at_a_time(engine, config),
        alembic() as command,
        engine.connect() as connection,
    ):
        await connection.run_sync(run, command)


async def print_sql(
    config: DatabaseConfig,
    history: History,
    verb: Literal["upgrade", "downgrade"],
    at: str | None,
    target: str,
    output: TextIO,
) -> None:
    """Print the SQL of a move, and do nothing.

    Args:
        config: The section [database].
        history: The migrations of a plugin.
        verb: What would be done.
        at: What the database is at.
        target: The revision.
        output: Where it is printed.

    Raises:
        MigrationError: There is no such revision, or it cannot be printed.
    """
    dialect = dialect_at(database_url(config)[0])
    async with alembic() as command:
        offline = configured(
            history,
            output=output,
            dialect_name=database_url(config)[0].get_backend_name(),
            dialect_opts={"paramstyle": "named"},
            literal_binds=True,
            transactional_ddl=dialect.undoes_ddl,
        )
        from alembic.util import CommandError  # noqa: PLC0415 -- Alembic is an extra

        name = history.find(target)
        try:
            getattr(command, verb)(offline, f"{at or 'base'}:{name}", sql=True)
        except CommandError as error:
            raise MigrationError(history.plugin, name, str(error)) from error
