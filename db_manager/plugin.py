"""The plugin: connects, watches, drains and disposes of the engine along with the bot."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from db_manager.base import Base
from db_manager.config import DatabaseConfig
from db_manager.database.availability import Availability, ping, unavailable_errors
from db_manager.database.database import Database, UnitSettings
from db_manager.dialects.known import dialect_at
from db_manager.engine.create import create_engine
from db_manager.engine.tls import unverified_host
from db_manager.engine.url import database_url
from db_manager.events import TablesCreated
from db_manager.schema import create_missing_tables
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

_logger = logging.getLogger("db_manager")

#: Fraction of the stop's deadline that is left for cancelled units to roll back.
ROLLBACK_SHARE: Final = 0.5


class DatabasePlugin(Plugin):
    """Gives a bot its database.

    Provides `db_manager:engine` and `db_manager:uow_factory`. If there is a dispatcher among the
    services (`aiogram:dispatcher`), its handlers get `uow_factory`. Without one (in a worker, a
    script, a test) everything else works the same.
    """

    name = "db_manager"
    config_section = "database"
    config_model = DatabaseConfig
    stop_timeout = 2.5
    unload_timeout = 1.5

    _database: Database
    _availability: Availability

    async def load(self, context: PluginContext) -> None:
        """Build the engine, provide the services, and register the middleware."""
        config: DatabaseConfig = context.config
        if host := unverified_host(config):
            _logger.warning(
                "[database] tls = %r: the certificate of %s is not verified; set tls = 'verify' "
                "(and tls_ca for a private CA)",
                config.tls,
                host,
            )
        dispatcher = context.services.get("aiogram:dispatcher")
        control_flow: tuple[type[BaseException], ...] = ()
        if dispatcher is not None:
            from db_manager.middleware import CONTROL_FLOW  # noqa: PLC0415 -- aiogram: only for a bot

            control_flow = CONTROL_FLOW
        self._database = await context.enter(
            _opened(
                Database(
                    create_engine(config),
                    make_reader=_reader(config),
                    settings=UnitSettings(
                        exit_timeout=config.exit_timeout,
                        pool_timeout=config.pool_timeout,
                        slow_unit=config.slow_unit,
                        resolvable=config.resolvable,
                        control_flow=control_flow,
                    ),
                    bus=context.bus,
                )
            )
        )
        factory = UnitOfWorkFactory(self._database)
        context.provide("engine", self._database.engine)
        context.provide("uow_factory", factory)
        context.probe("db_manager:pool", self._database.pool_levels)
        if dispatcher is not None:
            from db_manager.middleware import registered  # noqa: PLC0415 -- aiogram: only for a bot

            await context.enter(registered(dispatcher, factory))

    async def start(self, context: PluginContext) -> None:
        """Connect and create missing tables; wait for a database that is not available yet."""
        self._database.state = "open"
        self._availability = Availability(self._database, context, partial(self._prepare, context))
        await self._availability.begin()

    async def stop(self, context: PluginContext) -> None:
        """Refuse new units, wait for open ones, then cancel the rest and report them."""
        self._availability.end()
        rollback = self.stop_timeout * ROLLBACK_SHARE
        context.publish(await self._database.drain(self.stop_timeout - rollback, rollback * 0.8))

    async def health(self, context: PluginContext) -> Mapping[str, Any]:  # noqa: ARG002 -- the hook's signature
        """Check that the server answers.

        Returns:
            The driver, and the levels of the pool.

        Raises:
            DatabaseUnavailableError: The server cannot be reached.
        """
        with unavailable_errors():
            await ping(self._database.engine)
        return {"driver": self._database.engine.url.drivername, **self._database.pool_levels()}

    async def _prepare(self, context: PluginContext) -> None:
        if not context.config.create_tables:
            return
        if created := await create_missing_tables(self._database.engine, Base.metadata):
            context.publish(TablesCreated(tables=created))


def _reader(config: DatabaseConfig) -> Any:
    """Return what builds a separate engine for read-only units; None if they share the main one."""
    url = database_url(config)[0]
    dialect = dialect_at(url)
    if config.pgbouncer or dialect.is_in_memory(url) or not dialect.has_reader:
        return None
    return partial(create_engine, config, read_only=True)


@asynccontextmanager
async def _opened(database: Database) -> AsyncIterator[Database]:
    try:
        yield database
    finally:
        await database.dispose()
