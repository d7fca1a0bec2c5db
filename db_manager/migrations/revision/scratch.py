"""An empty database to build migrations in, of which nothing is left."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.url import database_url
from db_manager.errors import ConfigError
from db_manager.migrations.failure import ScratchError
from db_manager.migrations.migrating import migrating_engine
from db_manager.running.plain import shield

#: Begins the name of a scratch database; MySQL's `grant_databases` names it, too.
PREFIX: Final = "scratch_"
#: Names that an error shows of a database that is not empty.
_SHOWN: Final = 3

_Clean = Callable[[AsyncEngine], Awaitable[None]]


@asynccontextmanager
async def scratch(config: DatabaseConfig, url: str = "") -> AsyncIterator[DatabaseConfig]:
    """Yield the section of an empty database, of which nothing is left after the block.

    It is a temporary SQLite file, or a database beside the configured one.

    Args:
        config: The section [database].
        url: That of an empty database to use instead, and to empty again, for a role that may not
            create any; a SQLite URL is a temporary file.

    Raises:
        ScratchError: The role may not create a database, that one is not empty, or it could not be
            cleaned up; after an error of the block that is a note of it.
        ConfigError: The URL is malformed.
        OSError: The server cannot be reached.
    """
    beside = section_at(config, url) if url else config
    try:
        place, password = database_url(beside)
    except ConfigError as error:
        raise ConfigError(f"--scratch: {error}" if url else str(error)) from error
    dialect = dialect_at(place)
    name = f"{PREFIX}{secrets.token_hex(8)}"
    if not dialect.has_server:
        with tempfile.TemporaryDirectory(prefix="db_manager.") as folder:
            yield section_at(config, place.set(database=f"{folder}/{name}.sqlite3"))
        return
    if url:
        await _refuse_full(beside, dialect)
        left = partial(_left, beside, _empty, "what was made in the database of --scratch")
    else:
        drop = partial(_say, statement=dialect.drop_database.format(name=name))
        left = partial(_left, config, drop, f"the scratch database {name}")
    try:
        if not url:
            await _make(config, dialect, name)
            beside = section_at(config, place.set(database=name, password=password))
        yield beside
    except BaseException as error:
        if said := await left():
            error.add_note(said)
        raise
    if said := await left():
        raise ScratchError(said)


def section_at(config: DatabaseConfig, url: str | URL) -> DatabaseConfig:
    """Return the section of another database.

    Args:
        config: The section [database].
        url: That of the other one.
    """
    where = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    changed = {"url": SecretStr(where), "database": None, "password": None, "replica": None}
    return config.model_copy(update=changed)


async def _make(config: DatabaseConfig, dialect: Dialect, name: str) -> None:
    """Create the database *name*.

    Raises:
        ScratchError: The role may not.
    """
    try:
        async with migrating_engine(config) as engine:
            await _say(engine, f"CREATE DATABASE {name}")
    except DBAPIError as error:
        role = database_url(config)[0].username or "…"
        raise ScratchError(
            f"no scratch database could be made beside the configured one: "
            f"{connection_text(error)}; {dialect.grant_databases.format(role=role)}, or name "
            f"an empty one, which is emptied again: --scratch URL"
        ) from error


async def _refuse_full(config: DatabaseConfig, dialect: Dialect) -> None:
    """Refuse a database in which somebody has made something.

    Raises:
        ScratchError: It is one.
    """
    async with migrating_engine(config) as engine, engine.connect() as connection:
        there = await connection.run_sync(dialect.contents)
    if there:
        more = "" if len(there) <= _SHOWN else f" and {len(there) - _SHOWN} more"
        raise ScratchError(
            f"--scratch names a database that is not empty: it has "
            f"{', '.join(there[:_SHOWN])}{more}, and all in it would be dropped; name an empty one"
        )


async def _left(config: DatabaseConfig, clean: _Clean, what: str) -> str:
    """Clean up, and return what was left; a cancellation meanwhile comes after it."""
    failed: list[Exception] = []

    async def work() -> None:
        try:
            async with migrating_engine(config) as engine:
                await clean(engine)
        except Exception as error:  # noqa: BLE001 -- told
            failed.append(error)

    interrupted = await shield(work(), config.migrate_timeout)
    if interrupted is not None:
        raise interrupted
    return f"{what} was not dropped: {connection_text(failed[0])}" if failed else ""


async def _empty(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(dialect_of(engine.dialect).empty)


async def _say(engine: AsyncEngine, statement: str) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(statement))
