"""Moves a database along its histories, under a lock, however many processes start."""

import time
from collections.abc import Callable, Iterable
from typing import Literal

from sqlalchemy import Connection, delete, table
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_of
from db_manager.migrations.alembic_context import alembic, environment, run_files
from db_manager.migrations.history import History, Step
from db_manager.migrations.migrating import migrating_engine, one_at_a_time
from db_manager.migrations.step import Going, Ground
from db_manager.migrations.versions import Verb, refuse_half_way, standings
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
        ground = Ground(patient, deadline, lock, publish, database)
        await _go(ground, "upgrade", list(histories), target)


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
        The revision that the database is at now; empty for none.

    Raises:
        MigrationError: There is no such revision, it is none to go back to, or one failed; the
            text says what is kept.
        DBAPIError: The database cannot be reached.
    """
    name = history.find(target)
    deadline = time.monotonic() + config.migrate_timeout
    async with migrating_engine(config) as engine, one_at_a_time(engine, config) as lock:
        if verb == "downgrade":
            await _go(Ground(engine, deadline, lock), verb, [history], target)
        else:
            async with alembic(), engine.connect() as connection:
                await connection.run_sync(_stamp, history, name)
    return name


async def _go(ground: Ground, verb: Verb, histories: list[History], target: str) -> None:
    """Go from where the database is to *target*; first see to it that each step can be gone."""
    async with ground.engine.connect() as connection:
        ways = await connection.run_sync(_ways, verb, histories, target)
    if not ways:
        return
    async with alembic():
        scripts = {history.plugin: run_files(history) for history, _ in ways}
    for history, steps in ways:
        for step in steps:
            await Going(ground, history, scripts[history.plugin], step).go()


def _ways(
    connection: Connection, verb: Verb, histories: list[History], target: str
) -> list[tuple[History, list[Step]]]:
    """Return the histories in which there is something to do, each with its steps.

    Raises:
        MigrationError: *target* is not on the way, or a migration before did not end.
    """
    ways = [(each, each.way(verb, target)) for each in standings(connection, histories)]
    refuse_half_way(connection, [each for each, steps in ways if steps])
    return [(each.history, steps) for each, steps in ways if steps]


def _stamp(connection: Connection, history: History, name: str) -> None:
    dialect, versions = dialect_of(connection.dialect), history.version_table
    migration = dialect.migration(versions)
    [standing] = standings(connection, [history])
    connection.rollback()  # see `Going`
    scripts = run_files(history)
    with (
        environment(scripts, history, connection, transactional_ddl=dialect.undoes_ddl) as running,
        running.begin_transaction(),
    ):
        migration.begin(connection)
        if standing.is_ahead:  # Alembic goes from one revision to another that it knows
            connection.execute(delete(table(versions)))
        running.get_context().stamp(scripts, name or "base")
    migration.forget_half_way(connection)
    connection.commit()
