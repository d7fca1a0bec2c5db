"""How a program outside of this process reaches the database of an engine."""

from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy.engine import URL, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.access import Access
from db_manager.engine.tls import tls_mode

#: How engines of `create_engine` reach theirs, by the dialect that each has of its own.
_KEPT: Final[WeakKeyDictionary[Dialect, Access]] = WeakKeyDictionary()
#: From which section each was made.
_CONFIGS: Final[WeakKeyDictionary[Dialect, DatabaseConfig]] = WeakKeyDictionary()


def keep_access(
    engine: AsyncEngine, config: DatabaseConfig, url: URL, password: str | None
) -> None:
    """Remember how *engine* reaches its database: it does not know its password, nor its TLS.

    Args:
        engine: The engine, of a database or of its replica.
        config: The section of config.toml from which it was made.
        url: Where its database is, without the password.
        password: The password.
    """
    _CONFIGS[engine.dialect] = config
    _KEPT[engine.dialect] = Access(
        url=url,
        password=password,
        tls=tls_mode(config, url),
        tls_ca=config.tls_ca,
        connect_timeout=config.connect_timeout,
        pgbouncer=config.pgbouncer,
    )


def access_of(engine: AsyncEngine) -> Access:
    """Return how to reach the database of *engine*, of `create_engine` or of one's own."""
    url = engine.url
    own = Access(url=url._replace(password=None), password=url.password)
    return _KEPT.get(engine.dialect, own)


def section_of(engine: AsyncEngine) -> DatabaseConfig | None:
    """Return the section from which `create_engine` made *engine*; None for one of one's own."""
    return _CONFIGS.get(engine.dialect)
