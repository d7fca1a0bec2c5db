"""Finds the dialect of an engine, of a URL and of an error."""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final

import sqlalchemy.engine
from sqlalchemy import Index
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


def databases_of(index: Index) -> tuple[str, ...] | None:
    """Return SQLAlchemy's names of the databases that *index* is made on; None for all of them.

    One whose `ddl_if` asks a function is made on none, as far as anybody can tell.

    Args:
        index: An index of a model.
    """
    limit = getattr(index, "_ddl_if", None)  # private there, guarded by a test
    if limit is None or (limit.dialect is None and limit.callable_ is None):
        return None
    if limit.callable_ is not None:
        return ()
    return (limit.dialect,) if isinstance(limit.dialect, str) else tuple(limit.dialect)


def is_made_on(index: Index, dialect: sqlalchemy.engine.Dialect) -> bool:
    """Return True if *index* is one for the database of *dialect*."""
    names = databases_of(index)
    return names is None or dialect.name in names


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
