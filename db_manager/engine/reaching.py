"""How a program outside of this process reaches the database of an engine."""

from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.access import Access
from db_manager.engine.tls import tls_mode
from db_manager.engine.url import database_url

#: What engines of `create_engine` were made from, by the dialect that each has of its own.
_CONFIGS: Final[WeakKeyDictionary[Dialect, DatabaseConfig]] = WeakKeyDictionary()


def keep_config(engine: AsyncEngine, config: DatabaseConfig) -> None:
    """Remember what *engine* was made from: it does not know its password, nor its TLS."""
    _CONFIGS[engine.dialect] = config


def access_of(engine: AsyncEngine) -> Access:
    """Return how to reach the database of *engine*, of `create_engine` or of one's own."""
    config = _CONFIGS.get(engine.dialect)
    if config is None:
        url = engine.url
        return Access(url=url._replace(password=None), password=url.password)
    url, password = database_url(config)
    return Access(
        url=url,
        password=password,
        tls=tls_mode(config, url),
        tls_ca=config.tls_ca,
        connect_timeout=config.connect_timeout,
        pgbouncer=config.pgbouncer,
    )
