"""Runs the migrations of a plugin in a test, and checks them."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import DBAPIError

from db_manager.base import plugin_of
from db_manager.config import DatabaseConfig
from db_manager.dialects.safe_text import connection_text
from db_manager.errors import ConfigError
from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History, find
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.move import move, upgrade
from db_manager.migrations.revision.generate import differences, reflected
from db_manager.migrations.versions import standings
from db_manager.plugin import DatabasePlugin
from db_manager.schema import stands_on
from db_manager.testing.databases import Databases, make_tables
from db_manager.testing.environment import config_at
from db_manager.testing.sandbox import Sandbox
from lifecycle.errors import nearest

T = TypeVar("T")


class Migrations:
    """Runs the migrations of a plugin in a sandbox, and checks them.

    A plugin is found by its models, which the test has imported.

    Args:
        sandbox: The sandbox of the test; its databases begin without tables.
        databases: Creates databases of its own for `verify`.
    """

    def __init__(self, sandbox: Sandbox, databases: Databases) -> None:
        self._sandbox = sandbox
        self._databases = databases

    async def verify(self, plugin: str) -> None:
        """Check that the revisions lead from nothing to the models, and each of them back.

        It happens in a database of its own: each revision is applied, taken back and applied
        again. One whose `downgrade` raises NotImplementedError is not taken back.

        Args:
            plugin: Name of the plugin.

        Raises:
            MigrationError: There are two heads, a revision fails, its downgrade leaves something
                else than what was there before, or the models say something else than the last
                one. The text has the revision, and the operations that are missing.
            ConfigError: The plugin has no migrations.
        """
        __tracebackhide__ = True
        metadata, histories, _ = _found(plugin)
        history = histories[plugin]
        url = self._databases.reserve()
        await self._databases.make(url, None)
        try:
            config = config_at(url)
            await _lay_ground(config, metadata, histories, plugin)
            for revision in history.ids:
                await _there_and_back(config, history, revision)
            if missing := await _differences(config, history, metadata):
                raise MigrationError(
                    plugin,
                    history.head,
                    f"it is the last one, and the models say something else; `db-manager migrate "
                    f"revision {plugin}` writes:\n{missing}",
                )
        finally:
            await self._databases.drop(url)

    async def upgrade(self, plugin: str, revision: str = "head") -> None:
        """Apply the revisions of a plugin in the sandbox, after those that it stands on.

        Args:
            plugin: Name of the plugin.
            revision: The last one to apply; its number is enough.

        Raises:
            MigrationError: There is no such revision, the database is at a later one, or one fails.
            ConfigError: The plugin has no migrations.
        """
        config, history = await self._ready(plugin)
        name = history.find(revision)
        at = await _at(config, history)
        if at and name not in history.ids[history.ids.index(at) :]:
            raise MigrationError(plugin, name, f"the database is at {at}; `downgrade` leads back")
        if at != name:
            await upgrade(config, [history], target=name)

    async def downgrade(self, plugin: str, revision: str) -> None:
        """Take the revisions of a plugin back in the sandbox.

        Args:
            plugin: Name of the plugin.
            revision: The one that is left; `base` leaves none.

        Raises:
            MigrationError: There is no such revision, or one fails.
            ConfigError: The plugin has no migrations.
        """
        config, history = await self._ready(plugin)
        await _take_back(config, history, revision)

    async def _ready(self, plugin: str) -> tuple[DatabaseConfig, History]:
        metadata, histories, section = _found(plugin)
        config = config_at(await self._sandbox.database(section, metadata))
        await _lay_ground(config, metadata, histories, plugin)
        return config, histories[plugin]


def _found(plugin: str) -> tuple[MetaData, dict[str, History], str]:
    """Return the tables of the database that *plugin* is in, all migrations of it, its section.

    Raises:
        ConfigError: The plugin has no migrations.
    """
    known: set[str] = set()
    for database in _every(DatabasePlugin):
        owners = {plugin_of(name) for name in database.metadata.tables}
        known |= owners
        if plugin in owners and plugin in (histories := find(database.metadata)):
            return database.metadata, histories, database.config_section or database.name
    if plugin in known:
        first = f"`db-manager migrate revision {plugin}` writes the first one"
        raise ConfigError(f"plugin {plugin!r} has no migrations: {first}")
    raise ConfigError(
        f"plugin {plugin!r} has no tables{nearest(plugin, known - {''})}: the test must import its "
        f"models"
    )


def _every(kind: type[DatabasePlugin]) -> Iterator[type[DatabasePlugin]]:
    yield kind
    for other in reversed(kind.__subclasses__()):  # one of an earlier test may not be gone yet
        yield from _every(other)


async def _lay_ground(
    config: DatabaseConfig, metadata: MetaData, histories: dict[str, History], plugin: str
) -> None:
    """Make the tables that those of *plugin* refer to."""
    others = set(map(plugin_of, metadata.tables)) - (stands_on(plugin, metadata) - {plugin})
    await make_tables(config, metadata, histories, without=others)


async def _there_and_back(config: DatabaseConfig, history: History, revision: str) -> None:
    """Apply a revision, take it back, and apply it again.

    Raises:
        MigrationError: It fails, or its downgrade leaves something else than what was there.
    """
    __tracebackhide__ = True
    number = history.ids.index(revision)
    before = history.ids[number - 1] if number else "base"
    was = await _run(config, lambda connection: reflected(connection, history))
    await upgrade(config, [history], target=revision)
    try:
        await _take_back(config, history, before)
    except (MigrationError, NotImplementedError) as error:
        if isinstance(error.__cause__ or error, NotImplementedError):
            return  # its author has said that there is no way back
        raise
    if missing := await _differences(config, history, was):
        raise MigrationError(
            history.plugin,
            revision,
            f"its downgrade does not lead back to {before}; it lacks:\n{missing}",
        )
    await upgrade(config, [history], target=revision)


async def _take_back(config: DatabaseConfig, history: History, revision: str) -> None:
    """Take revisions back until *revision* is the last one.

    Raises:
        MigrationError: One fails.
    """
    try:
        await move(config, history, "downgrade", revision)
    except DBAPIError as error:
        at = await _at(config, history) or "base"
        what = f"its downgrade fails: {connection_text(error)}"
        raise MigrationError(history.plugin, at, what) from error


async def _at(config: DatabaseConfig, history: History) -> str | None:
    [standing] = await _run(config, lambda connection: standings(connection, [history]))
    return standing.at


async def _differences(config: DatabaseConfig, history: History, metadata: MetaData) -> str:
    return await _run(config, lambda connection: differences(connection, history, metadata))


async def _run(config: DatabaseConfig, work: Callable[[Connection], T]) -> T:
    async with migrating_engine(config) as engine, engine.connect() as connection:
        done = await connection.run_sync(work)
        await connection.commit()  # `standings` may have rolled back
        return done
