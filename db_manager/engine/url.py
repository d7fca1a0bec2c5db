"""The location of a database: its URL without the password, and which of its hosts are remote."""

import ipaddress
import re
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from db_manager.config import FIRST_SECTION, DatabaseConfig, env_prefix
from db_manager.dialects.known import dialect_at, with_driver
from db_manager.errors import ConfigError

_SECRETS: Final = frozenset({"password", "passwd", "sslpassword"})


def database_url(config: DatabaseConfig) -> tuple[URL, str | None]:
    """Return the URL of the database, and its password separately.

    Args:
        config: The section [database].

    Returns:
        The URL without a password, and the password.

    Raises:
        ConfigError: The URL is malformed, its query contains a secret or an ssl option, or no
            driver for it is installed; or a SQLite file is in the working directory, and not
            beside config.toml.
    """
    if config.url is not None:
        return _read(config, "url", config.url.get_secret_value())
    name = config.database
    if name is None and config.driver.startswith("sqlite"):
        name = "bot.sqlite3" if config.section == FIRST_SECTION else f"{config.section}.sqlite3"
    url = URL.create(
        config.driver,
        username=config.user,
        host=config.host,
        port=config.port,
        database=name,
    )
    return _beside(url, config), _password(config)


def replica_url(config: DatabaseConfig) -> tuple[URL, str | None] | None:
    """Return the URL of the read replica, and its password separately; None if there is none.

    Args:
        config: The section [database].

    Raises:
        ConfigError: The URL is malformed, or cannot be that of a replica of the database.
    """
    given = config.replica.get_secret_value() if config.replica else ""
    if not given:  # an empty environment variable switches the key of the file off
        return None
    main = database_url(config)[0]
    me = f"[{config.section}] replica"
    if not dialect_at(main).has_server:
        raise ConfigError(
            f"{me}: {main.get_backend_name()} is a file and has no replica; remove the key, and "
            f'read_only="replica" reads from the database itself'
        )
    url, password = _read(config, "replica", given)
    if url.drivername != main.drivername:
        raise ConfigError(
            f"{me}: its driver is {url.drivername!r}, and that of the database "
            f"{main.drivername!r}; a replica has the same one"
        )
    return url, password


def _password(config: DatabaseConfig) -> str | None:
    return config.password.get_secret_value() if config.password else None


def _read(config: DatabaseConfig, key: str, text: str) -> tuple[URL, str | None]:
    """Return the URL that *key* says, and its password, which the key `password` may say.

    Raises:
        ConfigError: The URL is malformed, its query contains a secret or an ssl option, or no
            driver for it is installed.
    """
    me = f"[{config.section}] {key}"
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        malformed = True
    else:
        malformed = "@" in (url.host or "")  # then part of the password was taken for the host
    if malformed:
        raise ConfigError(
            f"{me}: cannot be read; write driver://user:password@host:port/database, "
            f"with @ : / in the password written as %40 %3A %2F"
        )
    if secret := _SECRETS & set(url.query):
        raise ConfigError(
            f"{me}: {', '.join(sorted(secret))} does not belong in the query; "
            f"use the key password or {env_prefix(config.section)}PASSWORD_FILE"
        )
    if "sslmode" in url.query or "ssl" in url.query:
        raise ConfigError(f"{me}: set tls = 'verify' (or require, disable) instead of ssl")
    try:
        url = with_driver(url)
    except ConfigError as error:
        raise ConfigError(f"{me}: {error}") from None
    password = str(url.password) if url.password is not None else _password(config)
    return _beside(url._replace(password=None), config), password


def _beside(url: URL, config: DatabaseConfig) -> URL:
    return url if config.folder is None else dialect_at(url).beside(url, config.folder)


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
