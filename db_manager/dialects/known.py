"""Finds the dialect of an engine, of a URL and of an error."""

from functools import lru_cache
from importlib.util import find_spec
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
from db_manager.errors import ConfigError

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
#: The drivers of a URL that names none, the first choice first; their packages have these names.
_OF_NO_DRIVER: Final[dict[str, tuple[str, ...]]] = {
    "sqlite": ("sqlite+aiosqlite",),
    "postgresql": ("postgresql+asyncpg", "postgresql+psycopg"),
    "postgres": ("postgresql+asyncpg", "postgresql+psycopg"),
    "mysql": ("mysql+asyncmy",),
    "mariadb": ("mariadb+asyncmy",),
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


def with_driver(url: URL) -> URL:
    """Return *url* with an installed driver, when it names a database only: `postgresql://`.

    Args:
        url: Where the database is.

    Raises:
        ConfigError: No driver of this database is installed.
    """
    drivers = _OF_NO_DRIVER.get(url.drivername, ())
    for driver in drivers:
        if find_spec(driver.partition("+")[2]) is not None:
            return url.set(drivername=driver)
    if drivers:
        packages = " or ".join(driver.partition("+")[2] for driver in drivers)
        raise ConfigError(
            f"{url.drivername}:// needs an async driver, and none is installed: pip install "
            f"{packages}"
        )
    return url


@lru_cache(maxsize=64)
def _named(database: str, driver: str) -> Dialect:
    return _DRIVERS.get(driver) or _DATABASES.get(database) or _ANY


def dialect_behind(error: Any) -> Dialect:
    """Return our dialect for the driver that raised *error*, which SQLAlchemy has not wrapped."""
    return BY_PACKAGE.get(type(error).__module__.partition(".")[0], _ANY)
