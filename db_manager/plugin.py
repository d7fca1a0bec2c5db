"""The plugin: connects, watches, drains and disposes of the engine along with the bot."""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.base import Base
from db_manager.config import FIRST_SECTION, DatabaseConfig, config_of
from db_manager.database.availability import Availability, unavailable_errors
from db_manager.database.database import Database, UnitSettings
from db_manager.database.ping import PING, ask, ping
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.drift.look import differences_at_start
from db_manager.engine.create import create_engine
from db_manager.engine.tls import unverified_host
from db_manager.engine.url import database_url, replica_url
from db_manager.errors import ConfigError
from db_manager.events import DatabaseDrifted, TablesCreated
from db_manager.migrations.at_start import migrate
from db_manager.migrations.history import History, find
from db_manager.migrations.versions import (
    Standing,
    refuse_half_way,
    refuse_unshipped,
    standings,
)
from db_manager.schema import create_missing_tables, missing_tables, refuse_shared
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

_logger = logging.getLogger("db_manager")

#: Name of the plugin of a bot's first database.
FIRST: Final = "db_manager"
#: Fraction of the stop's deadline that is left for cancelled units to roll back.
ROLLBACK_SHARE: Final = 0.5


class DatabasePlugin(Plugin):
    """Gives a bot its database.

    Provides `db_manager:engine` and `db_manager:uow_factory`. If there is a dispatcher among the
    services (`aiogram:dispatcher`), its handlers get `uow_factory`. Without one (in a worker, a
    script, a test) everything else works the same.

    Another database is a subclass with another name and the tables that are in it:

        class Analytics(DatabasePlugin):
            name = "analytics"
            metadata = AnalyticsBase.metadata

    It reads the section `[analytics]`, provides `analytics:engine` and `analytics:uow_factory`, and
    handlers get `analytics_uow_factory`. Its deadlines are equal shares of the grace time.

    Attributes:
        metadata: The tables that are in this database.
    """

    name = FIRST
    config_section = FIRST_SECTION
    config_model = DatabaseConfig
    stop_timeout = 2.5
    unload_timeout = 1.5
    metadata: ClassVar[MetaData] = Base.metadata

    _database: Database
    _availability: Availability
    _is_compared: bool
    _histories: Mapping[str, History]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give a subclass with a name of its own a section and deadlines of its own."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "name" in own and cls.name != FIRST:
            defaults = {"config_section": cls.name, "stop_timeout": None, "unload_timeout": None}
            for attribute, value in defaults.items():
                if attribute not in own:
                    setattr(cls, attribute, value)
        if "config_model" not in own and issubclass(cls.config_model, DatabaseConfig):
            cls.config_model = config_of(cls.config_section or cls.name)

    async def load(self, context: PluginContext) -> None:
        """Build the engine, provide the services, and register the middleware."""
        config: DatabaseConfig = context.config
        _warn_if_unverified(config)
        dispatcher = context.services.get("aiogram:dispatcher")
        control_flow: tuple[type[BaseException], ...] = ()
        if dispatcher is not None:
            from db_manager.middleware import CONTROL_FLOW  # noqa: PLC0415 -- aiogram: only for a bot

            control_flow = CONTROL_FLOW
        self._histories = find(self.metadata)
        if self._histories and config.migrate == "apply":
            self.start_timeout = type(self).start_timeout + config.migrate_timeout
        self._database = await context.enter(_opened(self._make(context, control_flow)))
        factory = UnitOfWorkFactory(self._database)
        context.provide("engine", self._database.engine)
        context.provide("uow_factory", factory)
        context.probe(f"{self.name}:pool", self._database.pool_levels)
        if (replica := self._database.checkout.replica) is not None:
            context.probe(f"{self.name}:replica", replica.levels)
        if dispatcher is not None:
            from db_manager.middleware import registered  # noqa: PLC0415 -- aiogram: only for a bot

            await context.enter(registered(dispatcher, factory, self._data_key))

    def _make(
        self, context: PluginContext, control_flow: tuple[type[BaseException], ...]
    ) -> Database:
        config: DatabaseConfig = context.config
        return Database(
            create_engine(config),
            make_reader=_reader(config),
            replica=_replica(config),
            name=self._name_in_events,
            metadata=self.metadata,
            settings=UnitSettings(
                exit_timeout=config.exit_timeout,
                pool_timeout=config.pool_timeout,
                slow_unit=config.slow_unit,
                resolvable=config.resolvable,
                nested=config.nested,
                control_flow=control_flow,
            ),
            bus=context.bus,
        )

    async def start(self, context: PluginContext) -> None:
        """Connect and create missing tables; wait for a database that is not available yet.

        Raises:
            ConfigError: Tables of one plugin are in two databases, or two are one SQLite file.
            SchemaDriftError: A table or a column of the models is missing.
        """
        databases = _databases(context)
        tables = {name: database.metadata for name, database in databases.items()}
        refuse_shared({name: each for name, each in tables.items() if each is not None})
        _refuse_one_file(databases)
        self._database.state = "open"
        self._is_compared = False
        self._availability = Availability(self._database, context, partial(self._prepare, context))
        await self._availability.begin()

    async def stop(self, context: PluginContext) -> None:
        """Refuse new units, wait for open ones, then cancel the rest and report them."""
        self._availability.end()
        rollback = context.stop_deadline * ROLLBACK_SHARE
        deadline = context.stop_deadline - rollback
        context.publish(await self._database.drain(deadline, rollback * 0.8))

    async def health(self, context: PluginContext) -> Mapping[str, Any]:  # noqa: ARG002 -- the hook's signature
        """Check that the server answers.

        Returns:
            The driver, the levels of the pool, and whether the replica is used.

        Raises:
            DatabaseUnavailableError: The server cannot be reached.
        """
        with unavailable_errors():
            await ping(self._database.engine)
        details = {"driver": self._database.engine.url.drivername, **self._database.pool_levels()}
        if (replica := self._database.checkout.replica) is not None:
            details["replica"] = f"rests: {replica.reason}" if replica.reason else "is used"
        return details

    async def _prepare(self, context: PluginContext) -> None:
        config: DatabaseConfig = context.config
        engine, name = self._database.engine, self._name_in_events
        found, missing = await ask(engine, partial(self._look, mode=config.migrate))
        await migrate(engine, config, self.metadata, found, context.publish, name)
        if (missing and config.create_tables) and (
            created := await create_missing_tables(engine, self.metadata, self._histories)
        ):
            context.publish(TablesCreated(tables=created, database=name))
        if config.drift == "ignore" or self._is_compared:
            return
        differences = await differences_at_start(
            engine, self.metadata, config.section, refuse=config.drift == "refuse"
        )
        self._is_compared = True  # a database that was away is not looked at again
        if differences:
            context.publish(DatabaseDrifted(differences=differences, database=name))

    def _look(self, connection: Connection, mode: str) -> tuple[list[Standing], list[str]]:
        """Return what the database is at, and which tables are missing.

        The first query shows that the database answers: no other one is sent for that.
        """
        found = []
        if mode != "off" and self._histories:
            found = standings(connection, self._histories.values())
        else:
            connection.execute(PING)
        if mode == "check":
            refuse_half_way(connection, [each for each in found if each.pending])
        if not self.metadata.tables:
            return found, []
        dialect_of(connection.dialect).let_tables_change(connection)
        inspector = inspect(connection)
        if mode != "off":
            refuse_unshipped(
                connection, inspector.get_table_names(), self.metadata, self._histories
            )
        return found, missing_tables(connection, self.metadata, inspector=inspector)

    @property
    def _name_in_events(self) -> str:
        return "" if self.name == FIRST else self.name

    @property
    def _data_key(self) -> str:
        """Name of the factory in the data of handlers: a parameter's name."""
        prefix = "" if self.name == FIRST else re.sub(r"\W", "_", self.name) + "_"
        return f"{prefix}uow_factory"


def _reader(config: DatabaseConfig) -> Any:
    """Return what builds a separate engine for read-only units; None if they share the main one."""
    url = database_url(config)[0]
    dialect = dialect_at(url)
    if config.pgbouncer or dialect.is_in_memory(url) or not dialect.has_reader:
        return None
    return partial(create_engine, config, read_only=True)


def _replica(config: DatabaseConfig) -> AsyncEngine | None:
    """Return the engine of the read replica, if there is one."""
    if replica_url(config) is None:
        return None
    return create_engine(config, read_only=_reader(config) is not None, replica=True)


def _warn_if_unverified(config: DatabaseConfig) -> None:
    for found in (database_url(config), replica_url(config)):
        if found is not None and (host := unverified_host(config, found[0])):
            _logger.warning(
                "[%s] tls = %r: the certificate of %s is not verified; set tls = 'verify' "
                "(and tls_ca for a private CA)",
                config.section,
                config.tls,
                host,
            )


def _databases(context: PluginContext) -> dict[str, Database]:
    """Return each loaded database, by the name of its plugin."""
    found: dict[str, Database] = {}
    for service in context.services:
        engine = context.services[service]
        database = Database.known(engine) if isinstance(engine, AsyncEngine) else None
        # A plugin may hand an engine on by a name of its own.
        if database is not None and database not in found.values():
            found[service.partition(":")[0]] = database
    return found


def _refuse_one_file(databases: Mapping[str, Database]) -> None:
    """Refuse two databases in one SQLite file, which has one writer.

    Raises:
        ConfigError: A task with a unit on each would wait for itself.
    """
    owners: dict[Path, str] = {}
    for name, database in databases.items():
        file = database.dialect.file(database.engine.url)
        owner = name if file is None else owners.setdefault(file.resolve(), name)
        if owner != name:
            raise ConfigError(
                f"{file} is the database of {owner!r} and of {name!r}; a SQLite file has one "
                f"writer: give {name!r} a file and a section of its own"
            )


@asynccontextmanager
async def _opened(database: Database) -> AsyncIterator[Database]:
    try:
        yield database
    finally:
        await database.dispose()
