"""What a start does about migrations: apply them, refuse to start, or look no further."""

from collections.abc import Callable, Sequence

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.events import DatabaseDrifted, TablesCreated
from db_manager.migrations.failure import MigrationsPendingError
from db_manager.migrations.move import upgrade
from db_manager.migrations.versions import Standing
from db_manager.schema import create_missing_tables
from lifecycle.event import Event


async def migrate(
    engine: AsyncEngine,
    config: DatabaseConfig,
    metadata: MetaData,
    found: Sequence[Standing],
    publish: Callable[[Event], None],
    database: str = "",
) -> None:
    """Do what `[database] migrate` says; a database that is ahead is a warning.

    An old replica that restarts during a rolling update must start: that the database is ahead of
    its code is no error.

    Args:
        engine: The engine of the bot.
        config: The section [database].
        metadata: The tables of its models.
        found: What the database is at, in the order of its plugins.
        publish: Gets the events.
        database: Name of the database in them.

    Raises:
        MigrationsPendingError: Something is pending, and `migrate = "check"`.
        MigrationError: A migration failed.
        MigrationsNotInstalledError: Something is pending, and Alembic is not installed.
    """
    ahead = [f"{each.history.plugin} is at {each.said}" for each in found if each.is_ahead]
    if ahead:
        publish(DatabaseDrifted(differences=tuple(ahead), database=database))
    pending = {each.history.plugin: each.pending for each in found if each.pending}
    if not pending:
        return
    if config.migrate == "check":
        raise MigrationsPendingError(pending)
    histories = [each.history for each in found]
    if config.create_tables:
        migrated = [each.plugin for each in histories]
        if created := await create_missing_tables(engine, metadata, migrated, alone=True):
            publish(TablesCreated(tables=created, database=database))
    await upgrade(config, histories, engine=engine, publish=publish, database=database)
