"""A sandbox: code under test commits for real, and its database is dropped after the test."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

from sqlalchemy import MetaData
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager import config as configuration
from db_manager.config import FIRST_SECTION, DatabaseConfig
from db_manager.database.database import Database, UnitSettings
from db_manager.engine.create import create_engine
from db_manager.plugin import DatabasePlugin
from db_manager.testing.databases import Databases
from db_manager.testing.environment import lead
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bus import EventBus
from lifecycle.config import app_config, find_plugins, read_file
from lifecycle.journal import MemoryJournal
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

#: Overrides the key `broker` of [delivery].
_BROKER: Final = "DELIVERY__BROKER"
_variables_of = configuration.variables_of


class Sandbox:
    """A database for one test, with engine, units and applications on it.

        async with Sandbox.open(databases) as sandbox:
            async with sandbox.uow_factory() as uow: ...

    Args:
        url: Where the database is.
        bus: The bus on which units and applications of the sandbox publish.
        databases: Creates the databases of other plugins.

    Attributes:
        url: The same. While the sandbox is open, the environment variable `DATABASE__URL` has it
            too, which overrides every config.toml: code under test that reads its own
            configuration uses the sandbox as well, even in child processes.
        urls: Where each database is, by its section of config.toml. Another plugin's has an address
            as soon as its configuration is read, and is created when the plugin is loaded. There
            is no read replica: the database itself answers.
        bus: The same.
    """

    def __init__(self, url: URL, bus: EventBus, databases: Databases) -> None:
        self.url = url
        self.urls = {FIRST_SECTION: url}
        self.bus = bus
        self._databases = databases
        self._made = {FIRST_SECTION}
        self._has_tables = True
        self._loop = asyncio.get_running_loop()
        self._stack = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def open(cls, databases: Databases, bus: EventBus | None = None) -> AsyncIterator[Self]:
        """Create a sandbox for the duration of a block; at most one at a time in a process.

        Args:
            databases: Creates its database.
            bus: The bus to publish on; a new one by default.

        Yields:
            The sandbox. At the end its applications are unloaded and the database is dropped, even
            if the block raised.

        Raises:
            ConfigError: The server is unavailable, or the role may not create databases.
        """
        with patch.dict(os.environ):
            sandbox = cls(await databases.create(), bus or EventBus(), databases)
            async with sandbox._stack as stack:
                stack.push_async_callback(sandbox._drop)
                lead(FIRST_SECTION, sandbox.url)
                if os.environ.get(_BROKER):
                    os.environ[_BROKER] = sandbox.broker
                stack.enter_context(
                    patch.object(configuration, "variables_of", sandbox._variables_of)
                )
                stack.enter_context(patch.object(DatabasePlugin, "load", sandbox._load()))
                yield sandbox

    def _variables_of(self, section: str) -> dict[str, str]:
        """Return the environment variables of *section*, which lead into the sandbox."""
        if section not in self.urls:
            self.urls[section] = self._databases.reserve()
            lead(section, self.urls[section])
        return _variables_of(section)

    def _load(self) -> Callable[[DatabasePlugin, PluginContext], Awaitable[None]]:
        """Return the load hook, which creates the database of the plugin first."""
        load_it = DatabasePlugin.load

        async def load(plugin: DatabasePlugin, context: PluginContext) -> None:
            await self.database(context.config.section, plugin.metadata)
            await load_it(plugin, context)

        return load

    async def database(self, section: str, metadata: MetaData) -> URL:
        """Return where the database of *section* is; it is created when it is not there yet.

        Args:
            section: Its section of config.toml.
            metadata: The tables that it begins with.
        """
        self._variables_of(section)
        if section not in self._made:
            await self._databases.make(self.urls[section], metadata if self._has_tables else None)
            self._made.add(section)
        return self.urls[section]

    async def without_tables(self) -> None:
        """Begin again with databases in which no tables are: migrations will make them."""
        self._has_tables = False
        for section in self._made:
            await self._databases.empty(self.urls[section])

    async def _drop(self) -> None:
        for section in self._made:
            await self._databases.drop(self.urls[section])

    @cached_property
    def engine(self) -> AsyncEngine:
        """An engine for the test itself: what it sees is committed. Applications have their own.

        Raises:
            RuntimeError: The sandbox was opened in another event loop.
        """
        self._check_loop()
        config = DatabaseConfig()
        settings = UnitSettings(
            exit_timeout=config.exit_timeout,
            pool_timeout=config.pool_timeout,
            nested=config.nested,
        )
        database = Database(create_engine(config), settings=settings, bus=self.bus)
        self._stack.push_async_callback(database.dispose)
        return database.engine

    @cached_property
    def uow_factory(self) -> UnitOfWorkFactory:
        """Makes units of work on that engine."""
        return UnitOfWorkFactory(self.engine)

    def application(
        self,
        *plugins: Plugin | type[Plugin],
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> Application:
        """Create an application on the sandbox's database, without starting it.

        Its journal is in memory. The sandbox unloads it at the end.

        Args:
            *plugins: Plugins, or classes of plugins; `DatabasePlugin` is added if it is missing.
            config: Path of a config.toml, whose plugins are added too; or a mapping of sections.

        Returns:
            The application.

        Raises:
            WiringError: Plugins or configuration do not fit together.
            RuntimeError: The sandbox was opened in another event loop.
        """
        self._check_loop()
        every, folder = list(plugins), None
        if isinstance(config, (str, os.PathLike)):
            file = Path(config).absolute()
            config, folder = read_file(file), file.parent
            every += find_plugins(app_config(config).plugins, folder)
        config = self._at_memory(config)
        if not any(_is_database(plugin) for plugin in every):
            every.append(DatabasePlugin)
        app = Application(
            every, config=config, journal=MemoryJournal(), bus=self.bus, folder=folder
        )
        self._stack.push_async_callback(app.unload)
        return app

    @property
    def broker(self) -> str:
        """Where events of `uow.publish` go: to a list, whatever broker is configured."""
        return f"memory://{self.url.database}"

    def _at_memory(self, config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return *config* with the list in the place of its broker."""
        section = dict((config or {}).get("delivery", {}))
        if config is None or not section.get("broker"):
            return config
        return {**config, "delivery": {**section, "broker": self.broker}}

    async def start(
        self,
        *plugins: Plugin | type[Plugin],
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> Application:
        """Create an application and start it, without a bot.

        Args:
            *plugins: As for `application`.
            config: As for `application`.

        Returns:
            The started application, with the services of its plugins.

        Raises:
            WiringError: Plugins or configuration do not fit together.
            PluginFailedError: A hook failed.
        """
        app = self.application(*plugins, config=config)
        await app.start()
        return app

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the sandbox was opened in another event loop; with pytest-asyncio, set "
                "asyncio_default_fixture_loop_scope and asyncio_default_test_loop_scope to the "
                "same value"
            )

    def __repr__(self) -> str:
        return f"<Sandbox {self.url!r}>"


def _is_database(plugin: Plugin | type[Plugin]) -> bool:
    return plugin.name == DatabasePlugin.name
