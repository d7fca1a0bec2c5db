"""The location of a database: its URL without the password, and which of its hosts are remote."""

import ipaddress
import re
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from db_manager.config import DatabaseConfig
from db_manager.errors import ConfigError

_SECRETS: Final = frozenset({"password", "passwd", "sslpassword"})


def database_url(config: DatabaseConfig) -> tuple[URL, str | None]:
    """Return the URL of the database, and its password separately.

    Args:
        config: The section [database].

    Returns:
        The URL without a password, and the password.

    Raises:
        ConfigError: The URL is malformed, or its query contains a secret or an ssl option.
    """
    password = config.password.get_secret_value() if config.password else None
    if config.url is None:
        name = config.database
        if name is None and config.driver.startswith("sqlite"):
            name = "bot.sqlite3"
        url = URL.create(
            config.driver,
            username=config.user,
            host=config.host,
            port=config.port,
            database=name,
        )
        return url, password
    try:
        url = make_url(config.url.get_secret_value())
    except (exc.ArgumentError, ValueError):
        malformed = True
    else:
        malformed = "@" in (url.host or "")  # then part of the password was taken for the host
    if malformed:
        raise ConfigError(
            "[database] url: cannot be read; write driver://user:password@host:port/database, "
            "with @ : / in the password written as %40 %3A %2F"
        )
    if secret := _SECRETS & set(url.query):
        raise ConfigError(
            f"[database] url: {', '.join(sorted(secret))} does not belong in the query; "
            f"use the key password or DATABASE__PASSWORD_FILE"
        )
    if "sslmode" in url.query or "ssl" in url.query:
        raise ConfigError("[database] url: set tls = 'verify' (or require, disable) instead of ssl")
    if url.password is not None:
        password = str(url.password)
    return url._replace(password=None), password


def is_local(host: str | None) -> bool:
    """Return True for a loopback address, a Unix socket, or no host."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def remote_hosts(url: URL) -> list[str]:
    """Return the hosts of *url* that are not local; PostgreSQL allows several, in the query.

    Args:
        url: Where the database is: `//host/db`, `///db?host=a:5432&host=b:5432`, `?host=a,b`.
    """
    query = url.query.get("host", ())
    several = query.split(",") if isinstance(query, str) else query
    named = [re.sub(r":\d+\Z", "", host) for host in several if not host.startswith("/")]
    return [host for host in (url.host or "", *named) if not is_local(host)]
