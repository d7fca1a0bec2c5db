"""Connects `db-manager delivery` to the bot's database, and says what is wrong with it."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db_manager.config import DatabaseConfig
from db_manager.delivery.broadcast.broadcast_tables import BroadcastRow
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.table.tables import OutboxRow
from db_manager.delivery.table.updates_table import InboxRow
from db_manager.dialects.known import dialect_of
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.create import create_engine
from db_manager.errors import DbManagerError
from db_manager.plugin import DatabasePlugin
from db_manager.undelivered.reopen import change
from db_manager.undelivered.standing import standing
from db_manager.undelivered.told import lines
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle import config as configuration
from lifecycle.errors import LifecycleError
from lifecycle.plugins.plugin import Plugin
from lifecycle.printable import printable

_TABLES: Final = (
    OutboxRow.__tablename__,
    InboxRow.__tablename__,
    BroadcastRow.__tablename__,
)


class _Delivery(Plugin):
    """Reads the section [delivery] in the place of the plugin, which would import aiogram."""

    name = "delivery"
    config_model = DeliveryConfig


def do(path: Path, options: argparse.Namespace) -> int:
    """Do what the verb says; see `run_delivery.run`.

    Args:
        path: The file config.toml.
        options: The arguments, as parsed.

    Returns:
        The exit code.

    Raises:
        LifecycleError: It was not done.
    """
    file, folder = configuration.read_file(path), path.absolute().parent
    section = configuration.plugin_config(file, DatabasePlugin(), folder)
    delivery = configuration.plugin_config(file, _Delivery(), folder)
    is_named = _Delivery.name in configuration.app_config(file).plugins
    try:
        return asyncio.run(_do(options, section, delivery, is_named=is_named))
    except DbManagerError as error:
        raise LifecycleError(str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise LifecycleError(connection_text(error)) from error


async def _do(
    options: argparse.Namespace,
    section: DatabaseConfig,
    delivery: DeliveryConfig,
    *,
    is_named: bool,
) -> int:
    reads = options.verb is None
    async with connected(section, is_named=is_named, reads=reads) as connection:
        if options.verb is not None:
            _say(await change(connection, options.verb, options.which))
            return 0
        found = await standing(connection, options.limit)
    _say(lines(found, lease=delivery.lease, rate=delivery.bulk_rate, payloads=options.payloads))
    return int(found.is_worth_a_look)


@asynccontextmanager
async def connected(
    section: DatabaseConfig, *, is_named: bool, reads: bool
) -> AsyncIterator[AsyncConnection]:
    """Yield the connection of a unit, to a database with the tables.

    Args:
        section: The section [database].
        is_named: [app] plugins names `delivery`.
        reads: Nothing will be written.

    Raises:
        LifecycleError: The database, or the tables, are not there.
    """
    engine = create_engine(section)
    dialect = dialect_of(engine.dialect)
    try:
        if not dialect.moment_now:
            raise LifecycleError(
                f"the plugin `delivery` keeps messages on PostgreSQL and SQLite, and not on "
                f"{engine.dialect.name}"
            )
        file = dialect.file(engine.url)
        if file is not None and not file.exists():
            raise LifecycleError(f"there is no database {file}; the bot makes it when it starts")
        # A transaction that reads first may not write on SQLite when the bot wrote meanwhile.
        async with UnitOfWorkFactory(engine)(read_only=reads) as uow:
            there = await uow.connection.run_sync(lambda c: inspect(c).get_table_names())
            if missing := [name for name in _TABLES if name not in there]:
                raise LifecycleError(_without(missing[0], is_named=is_named))
            yield uow.connection
    finally:
        await engine.dispose()


def _without(table: str, *, is_named: bool) -> str:
    if is_named:
        return (
            f"there is no table {table}: the bot makes it when it starts, and has not since "
            f"[app] plugins names `delivery`; start it once (`db-manager check` says if it can)"
        )
    return (
        f"there is no table {table}: the plugin `delivery` was never on here. Name it in "
        f'config.toml, [app] plugins = ["db_manager", "delivery"], or in '
        f"Application([DatabasePlugin, DeliveryPlugin]), and start the bot once"
    )


def _say(lines: list[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{printable(line)}\n")
