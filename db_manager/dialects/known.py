"""Finds the dialect of an engine, of a URL and of an error."""

from functools import lru_cache
from typing import Any, Final

import sqlalchemy.engine
from sqlalchemy.engine import URL

from db_manager.dialects.dialect import Dialect
from db_manager.dialects.mysql.asyncmy import Asyncmy
from db_manager.dialects.mysql.mysql import MySQL
from db_manager.dialects.postgresql.asyncpg import Asyncpg
from db_manager.dialects.postgresql.postgresql import PostgreSQL
from db_manager.dialects.postgresql.psycopg import Psycopg
from db_manager.dialects.sqlite.aiosqlite import Aiosqlite

_ANY: Final = Dialect()
#: By SQLAlchemy's name of the driver.
_DRIVERS: Final[dict[str, Dialect]] = {
    "asyncpg": Asyncpg(),
    "psycopg": Psycopg(),
    "psycopg_async": Psycopg(),
    "aiosqlite": Aiosqlite(),
    "asyncmy": Asyncmy(),
}
#: By SQLAlchemy's name of the database, for unknown drivers.
_DATABASES: Final[dict[str, Dialect]] = {
    "postgresql": PostgreSQL(),
    "mysql": MySQL(),
    "mariadb": MySQL(),
}
#: By the package that defines the driver's own errors.
BY_PACKAGE: Final[dict[str, Dialect]] = {each.package: each for each in _DRIVERS.values()}


def dialect_of(dialect: sqlalchemy.engine.Dialect) -> Dialect:
    """Return our dialect for SQLAlchemy's *dialect*."""
    return _named(dialect.name, dialect.driver)


def dialect_at(url: URL) -> Dialect:
    """Return our dialect for the database at *url*."""
    database, _, driver = url.drivername.partition("+")
    return _named(database, driver)


@lru_cache(maxsize=64)
def _named(database: str, driver: str) -> Dialect:
    return _DRIVERS.get(driver) or _DATABASES.get(database) or _ANY


def dialect_behind(error: Any) -> Dialect:
    """Return our dialect for the driver that raised *error*, which SQLAlchemy has not wrapped."""
    return BY_PACKAGE.get(type(error).__module__.partition(".")[0], _ANY)
