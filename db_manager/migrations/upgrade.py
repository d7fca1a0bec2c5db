"""Applies what is pending, under a lock, however many processes start."""

import time
from collections.abc import Callable, Iterable

from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.migrations.alembic_command import alembic, check_files
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History
from db_manager.migrations.migrating import migrating_engine, one_at_a_time
from db_manager.migrations.moving import Moving
from db_manager.migrations.versions import Standing, refuse_half_way, standings
from lifecycle.event import Event


async def upgrade(
    config: DatabaseConfig,
    histories: Iterable[History],
    *,
    target: str = "head",
    engine: AsyncEngine | None = None,
    publish: Callable[[Event], None] = lambda _: None,
    database: str = "",
) -> None:
    """Apply what is pending, under a lock that other processes wait for.

    Args:
        config: The section [database].
        histories: The migrations of its plugins, in their order.
        target: The last revision to apply.
        engine: The engine of the bot; needed for a database in memory only.
        publish: Gets the events.
        database: Name of the database in them.

    Raises:
        MigrationError: A migration failed, or one before did not end; the text says what is kept
            and what to do.
        MigrationsNotInstalledError: Alembic is not installed.
        DbManagerError: Another process held the lock for longer than `migrate_timeout`.
        DBAPIError: The database cannot be reached, or was lost, and nothing is half done.
    """
    deadline = time.monotonic() + config.migrate_timeout
    async with migrating_engine(config, engine) as patient, one_at_a_time(patient, config) as lock:
        async with patient.connect() as connection:
            found = await connection.run_sync(standings, histories)
            pending = [standing for standing in found if standing.pending]
            await connection.run_sync(refuse_half_way, pending)
        if found:
            async with alembic():
                for standing in found:
                    _check(standing, target)
        for standing in pending:
            moving = Moving(patient, standing.history, deadline, lock, publish, database)
            await moving.up(standing, target)


def _check(standing: Standing, target: str) -> None:
    """See to it that *target* can be reached, before anything is done.

    Raises:
        MigrationError: The database is past it, or a file cannot be run.
    """
    history, at = standing.history, standing.at
    last = history.find(target)
    if at in history.ids and last not in (at, *standing.pending):
        raise MigrationError(
            history.plugin,
            last,
            f"the database is at {at}, which comes after it; "
            f"`db-manager migrate downgrade {history.plugin} {last}` goes back",
        )
    if standing.pending:
        check_files(history)
