"""TLS: how a connection is encrypted, and whether the server's certificate is verified."""

import ssl
from typing import Literal

from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.engine.url import database_url, remote_hosts
from db_manager.errors import ConfigError


def tls_context(config: DatabaseConfig, url: URL) -> ssl.SSLContext | None:
    """Return the TLS context of connections, or None for clear text.

    Args:
        config: The section [database].
        url: Where the database is.

    Returns:
        A context that verifies the certificate and the host name, unless `tls = "require"`.

    Raises:
        ConfigError: The file `tls_ca` cannot be read.
    """
    mode = tls_mode(config, url)
    if mode == "disable":
        return None
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
    except OSError as error:
        raise ConfigError(
            f"[{config.section}] tls_ca: cannot read {config.tls_ca}: {error}"
        ) from None
    if mode == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def tls_mode(config: DatabaseConfig, url: URL) -> Literal["verify", "require", "disable"]:
    """Return what `[database] tls` means for the database at *url*."""
    if config.tls != "auto":
        return config.tls
    return "verify" if config.tls_ca or remote_hosts(url) else "disable"


def unverified_host(config: DatabaseConfig, url: URL | None = None) -> str | None:
    """Return the remote hosts whose certificate is not verified, or None.

    Args:
        config: The section [database].
        url: Where its replica is; by default where the database itself is.
    """
    hosts = remote_hosts(database_url(config)[0] if url is None else url)
    return ", ".join(hosts) if hosts and config.tls in {"require", "disable"} else None
