"""What a start does about migrations: apply them, refuse to start, or look no further."""

from collections.abc import Callable, Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.events import DatabaseDrifted
from db_manager.migrations.failure import MigrationsPendingError
from db_manager.migrations.history import History
from db_manager.migrations.upgrade import upgrade
from db_manager.migrations.versions import refuse_half_way, standings
from lifecycle.event import Event


async def migrate(
    engine: AsyncEngine,
    config: DatabaseConfig,
    histories: Mapping[str, History],
    publish: Callable[[Event], None],
    database: str = "",
) -> None:
    """Do what `[database] migrate` says; a database that is ahead is a warning.

    An old replica that restarts during a rolling update must start: that the database is ahead of
    its code is no error.

    Args:
        engine: The engine of the bot, which is asked what the database is at.
        config: The section [database].
        histories: The migrations of its plugins, in their order.
        publish: Gets the events.
        database: Name of the database in them.

    Raises:
        MigrationsPendingError: Something is pending, and `migrate = "check"`.
        MigrationError: A migration failed.
        MigrationsNotInstalledError: Something is pending, and Alembic is not installed.
    """
    if config.migrate == "off" or not histories:
        return
    async with engine.connect() as connection:
        found = await connection.run_sync(standings, histories.values())
        if config.migrate == "check":
            await connection.run_sync(refuse_half_way, [each for each in found if each.pending])
    if ahead := tuple(
        f"{each.history.plugin} is at {each.at}, which this code does not know: is it older?"
        for each in found
        if each.is_ahead
    ):
        publish(DatabaseDrifted(differences=ahead, database=database))
    pending = {each.history.plugin: each.pending for each in found if each.pending}
    if not pending:
        return
    if config.migrate == "check":
        raise MigrationsPendingError(pending)
    await upgrade(config, histories.values(), engine=engine, publish=publish, database=database)
