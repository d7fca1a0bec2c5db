"""Creates a database for each test, as a copy of a template that has the tables."""

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy import MetaData, Table, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from db_manager.base import Base
from db_manager.config import DatabaseConfig
from db_manager.dialects import classify
from db_manager.dialects.known import with_driver
from db_manager.dialects.safe_text import connection_text
from db_manager.migrations.history import History, find
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.move import upgrade
from db_manager.schema import create_missing_tables
from db_manager.testing.environment import config_at
from lifecycle.errors import ConfigError


class Place(Protocol):
    """Where databases can be created: as files, or on a server."""

    def url(self, name: str) -> URL:
        """Return the URL of the database *name*."""

    async def make(self, name: str, template: str | None) -> None:
        """Create the database *name*, empty or as a copy of *template*."""

    async def drop(self, *names: str) -> None:
        """Drop databases, and close the connections that are still open."""


class Databases:
    """Creates and drops databases that have their tables: by default those of `Base`.

    The tables are made once, in a template, as a start makes them: by its migrations where a plugin
    has some, else from the models; after a model is added, a new template is made. Names begin with
    `sandbox_` and are random, so that concurrent runs do not collide, and databases left behind by
    a killed run can be found. Each method may be called in a different event loop.

    Args:
        url: A PostgreSQL server, version 13 or newer, on which the role may create databases (the
            URL of any database on it). An empty string or any SQLite URL means files in the
            temporary directory.

    Raises:
        ConfigError: The URL is malformed, or is that of another kind of database.
    """

    def __init__(self, url: str | URL = "") -> None:
        self._place = _place(url)
        self._prefix = f"sandbox_{os.getpid()}_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._templates: dict[MetaData, _Template] = {}
        self._made: dict[URL, str] = {}

    async def create(self) -> URL:
        """Return the URL of a new database with the tables.

        Raises:
            ConfigError: The server is unavailable, or the role may not create databases.
        """
        url = self.reserve()
        await self.make(url)
        return url

    def reserve(self) -> URL:
        """Return the URL of a database that `make` creates later."""
        name = f"{self._prefix}_{next(self._numbers)}"
        url = self._place.url(name)
        self._made[url] = name
        return url

    async def make(self, url: URL, metadata: MetaData | None = Base.metadata) -> None:
        """Create the database at *url* with the tables.

        Args:
            url: What `reserve` returned.
            metadata: The tables; None for none.

        Raises:
            ConfigError: The server is unavailable, or the role may not create databases.
            MigrationError: A migration failed.
        """
        if metadata is None:
            await self._place.make(self._made[url], None)
            return
        tables = list(metadata.tables.values())
        template = self._templates.get(metadata)
        if template is None or tables != template.tables:
            empty = self.reserve()
            await self._place.make(self._made[empty], None)
            await make_tables(config_at(empty), metadata, find(metadata))
            template = self._templates[metadata] = _Template(self._made[empty], tables)
        await self._place.make(self._made[url], template.name)

    async def empty(self, url: URL) -> None:
        """Create a database anew, without tables.

        Args:
            url: That of a database that was made.
        """
        await self._place.drop(self._made[url])
        await self._place.make(self._made[url], None)

    async def drop(self, url: URL) -> None:
        """Drop a database, and close the connections to it that are still open.

        Args:
            url: What `create` or `reserve` returned.
        """
        await self._place.drop(self._made[url])
        del self._made[url]

    async def close(self) -> None:
        """Drop the templates, and databases that were not dropped."""
        await self._place.drop(*self._made.values())
        self._made.clear()
        self._templates.clear()


class _Template(NamedTuple):
    """A database to copy, and the tables that it has."""

    name: str
    tables: list[Table]


class _Files:
    """SQLite files, each in a separate temporary directory."""

    def url(self, name: str) -> URL:
        return URL.create("sqlite+aiosqlite", database=str(_folder(name) / "bot.sqlite3"))

    async def make(self, name: str, template: str | None) -> None:
        _folder(name).mkdir(mode=0o700)
        if template is not None:
            shutil.copytree(_folder(template), _folder(name), dirs_exist_ok=True)

    async def drop(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(_folder(name), ignore_errors=True)


class _Server:
    """A PostgreSQL server."""

    def __init__(self, url: URL) -> None:
        self._url = url

    def url(self, name: str) -> URL:
        return self._url.set(database=name)

    async def make(self, name: str, template: str | None) -> None:
        async with self._administrator() as connection:
            await connection.execute(
                text(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template0"}"')
            )

    async def drop(self, *names: str) -> None:
        async with self._administrator() as connection:
            for name in names:
                await connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    @asynccontextmanager
    async def _administrator(self) -> AsyncIterator[AsyncConnection]:
        engine = create_async_engine(self._url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                yield connection
        except (OSError, DBAPIError) as error:
            if classify.sqlstate(error) == "42501":
                raise ConfigError(
                    f"sandbox_url: the role {self._url.username!r} may not create databases; run "
                    f"ALTER ROLE … CREATEDB, or use another role"
                ) from error
            if classify.is_unavailable(error):
                raise ConfigError(
                    f"sandbox_url: {self._url!r}: {connection_text(error)}"
                ) from error
            raise
        finally:
            await engine.dispose()


def _folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


async def make_tables(
    config: DatabaseConfig,
    metadata: MetaData,
    histories: Mapping[str, History],
    without: Collection[str] = (),
) -> None:
    """Make tables as a start does: those of a plugin with migrations by them.

    Args:
        config: Where the database is.
        metadata: The models of all plugins.
        histories: The migrations of those that have any.
        without: Plugins whose tables are left out.
    """
    create = partial(create_missing_tables, metadata=metadata, migrated={*histories, *without})
    async with migrating_engine(config) as engine:
        await create(engine, alone=True)
        await upgrade(config, [each for name, each in histories.items() if name not in without])
        await create(engine)


def _place(given: str | URL) -> Place:
    try:
        url = make_url(given or "sqlite+aiosqlite://")
    except (ArgumentError, ValueError):
        url = None
    if url is None:
        raise ConfigError("sandbox_url: cannot be read; write driver://user:password@host/database")
    try:
        url = with_driver(url)
    except ConfigError as error:
        raise ConfigError(f"sandbox_url: {error}") from None
    backend: str = url.get_backend_name()
    places: dict[str, Callable[[URL], Place]] = {
        "sqlite": lambda _url: _Files(),
        "postgresql": _Server,
    }
    if backend not in places:
        raise ConfigError(f"sandbox_url: a sandbox needs PostgreSQL or SQLite, not {backend!r}")
    return places[backend](url)
