"""Moves back, says what the database is at, and prints what would be done."""

import time
from typing import Any, Literal, TextIO

from sqlalchemy import Connection

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
    name = history.find(target)
    if verb == "downgrade" and not steps_back(Standing(history, at), name):
        return
    url = database_url(config)[0]
    async with alembic() as command:
        check_files(history)
        offline = configured(
            history,
            output=output,
            dialect_name=url.get_backend_name(),
            dialect_opts={"paramstyle": "named"},
            literal_binds=True,
            transactional_ddl=dialect_at(url).undoes_ddl,
        )
        try:
            getattr(command, verb)(offline, f"{at or 'base'}:{name}", sql=True)
        except Exception as error:
            what = f"it cannot be printed, only run: {tell(error)}"
            raise MigrationError(history.plugin, name, what) from error
