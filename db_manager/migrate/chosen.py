"""The databases that a command is about, and what is known of their migrations."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection

from db_manager.base import TABLE_NAME, plugin_of
from db_manager.config import DatabaseConfig
from db_manager.configured import configured_databases
from db_manager.dialects.known import dialect_at
from db_manager.drift.difference import Difference
from db_manager.drift.look import differences
from db_manager.engine.url import database_url
from db_manager.migrations.history import History, find
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.revision.scratch import section_at
from db_manager.migrations.versions import (
    Standing,
    refuse_half_way,
    refuse_unshipped,
    standings,
)
from db_manager.plugin import DatabasePlugin
from db_manager.schema import missing_tables, unmigrated
from lifecycle import config as configuration
from lifecycle.errors import ConfigError
from lifecycle.printable import printable_lines


class Chosen:
    """A database of the bot.

    Args:
        plugin: Its plugin.
        config: Its section of config.toml.

    Raises:
        MigrationError: A history is broken.
    """

    def __init__(self, plugin: DatabasePlugin, config: DatabaseConfig) -> None:
        self.plugin = plugin
        self.config = config
        self.histories = find(plugin.metadata)

    def named(self, owner: str | None) -> dict[str, History]:
        """Return the history of one plugin, or all.

        Raises:
            ConfigError: It has none.
        """
        if owner is None:
            return self.histories
        if owner not in self.histories:
            known = ", ".join(self.histories) or "none"
            raise ConfigError(f"plugin {owner!r} has no migrations; those that have: {known}")
        return {owner: self.histories[owner]}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection to look at the database.

        A SQLite file that nobody has made yet is not made for that: it is as an empty database.
        """
        url = database_url(self.config)[0]
        file, config = dialect_at(url).file(url), self.config
        if file is not None and not file.exists():
            config = section_at(config, url.set(database=":memory:", query={}))
        async with migrating_engine(config) as engine, engine.connect() as connection:
            yield connection

    async def at(self) -> list[Standing]:
        """Return what each plugin is at.

        Raises:
            MigrationError: A plugin has a version in the database, and no migrations; or a
                migration began and did not end.
        """
        async with self.connected() as connection:
            return await connection.run_sync(self._look)

    async def created_before(self) -> list[Table]:
        """Return the missing tables that no migration makes, and that are made before them."""
        if not self.config.create_tables:
            return []
        ours = unmigrated(self.plugin.metadata, self.histories, alone=True)
        look = partial(missing_tables, metadata=self.plugin.metadata, among=ours)
        async with self.connected() as connection:
            missing = await connection.run_sync(look)
        return [table for table in ours if table.name in missing]

    def _look(self, connection: Connection) -> list[Standing]:
        found = standings(connection, self.histories.values())
        refuse_half_way(connection, [each for each in found if each.pending])
        there = inspect(connection).get_table_names()
        refuse_unshipped(connection, there, self.plugin.metadata, self.histories)
        return found

    def differing(
        self, connection: Connection, found: list[Standing]
    ) -> dict[str, list[Difference]]:
        """Return how the tables of each plugin differ that is at its last revision."""
        metadata = self.plugin.metadata
        differing: dict[str, list[Difference]] = {}
        for plugin in (each.history.plugin for each in found if each.state == "current"):
            ours = [each for each in metadata.sorted_tables if plugin_of(each.name) == plugin]
            if every := differences(connection, metadata, among=ours):
                differing[plugin] = every
        return differing

    def nobodys(self, connection: Connection) -> dict[str, list[str]]:
        """Return the tables whose plugin is not among those of the bot, by their plugin."""
        known = {plugin_of(table.name) for table in self.plugin.metadata.tables.values()}
        found: dict[str, list[str]] = {}
        for name in sorted(inspect(connection).get_table_names()):
            if TABLE_NAME.match(name) and plugin_of(name) not in known:
                found.setdefault(plugin_of(name), []).append(name)
        return found


def chosen_databases(path: Path, wanted: str | None) -> list[Chosen]:
    """Return the databases that *path* configures, or the one of the plugin *wanted*.

    Args:
        path: The file config.toml.
        wanted: Name of the plugin of a database.

    Raises:
        ConfigError: There is no such one, the configuration does not fit, or a plugin cannot be
            imported: its models would be missing.
        MigrationError: A history is broken.
    """
    file: dict[str, Any] = configuration.read_file(path)
    folder = path.absolute().parent
    configuration.find_plugins(configuration.app_config(file).plugins, folder)
    plugins = configured_databases(file, folder)
    chosen = [each for each in plugins if wanted is None or each.name == wanted]
    if not chosen:
        names = ", ".join(each.name for each in plugins) or "none"
        raise ConfigError(f"{path}: there is no database {wanted!r}; there are: {names}")
    return [Chosen(p, configuration.plugin_config(file, p, folder)) for p in chosen]


def say(line: str) -> None:
    """Write *line* for the user."""
    sys.stdout.write(f"{printable_lines(line)}\n")
