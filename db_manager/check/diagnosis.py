"""Connects to the database as the bot would, and tells what is there and what is wrong."""

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Final

import sqlalchemy.exc
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.base import Base
from db_manager.check.finding import Finding
from db_manager.config import DatabaseConfig
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.create import create_engine
from db_manager.engine.tls import unverified_host
from db_manager.engine.url import database_url, in_memory, remote_hosts
from db_manager.errors import ConfigError
from db_manager.schema import missing_tables

#: Seconds by which the clocks may differ before it is worth a word.
CLOCK_TOLERANCE: Final = 1.0

_CLOCK: Final = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT unix_timestamp(now(6))",
}
#: What PostgreSQL says and what is to be done; by SQLSTATE.
_FIXES: Final = {
    "28P01": "password: it is wrong; set DATABASE__PASSWORD or DATABASE__PASSWORD_FILE",
    "28000": "user: the server does not let this role in from here; see its pg_hba.conf, and `tls`",
    "3D000": "database: there is none of that name; correct it, or create the database",
    "42501": "user: the role may not do that; GRANT it",
    "53300": "pool_size: the server has no connection left; lower it, or raise max_connections",
}
#: The same for a server that cannot be reached; the first that fits.
_UNREACHABLE: Final[tuple[tuple[type[OSError], str], ...]] = (
    (ssl.SSLError, "tls: nobody vouches for its certificate: name the authority with `tls_ca`"),
    (socket.gaierror, "host: nobody knows that name"),
    (TimeoutError, "host, port: nobody answered in time; see the firewalls between"),
    (OSError, "host, port: nobody listens there; does the server run?"),
)


async def diagnose(config: DatabaseConfig, metadata: MetaData = Base.metadata) -> list[Finding]:
    """Return what is found out about a database; nothing there is changed.

    Args:
        config: The section [database].
        metadata: The tables there should be.
    """
    try:
        url = database_url(config)[0]
        backend = url.get_backend_name()
        # Where there is a way to forbid every change, it is taken.
        read_only = backend in {"postgresql", "sqlite"} and not config.pgbouncer
        engine = create_engine(config, read_only=read_only)
    except ConfigError as error:
        return [Finding("problem", "database", str(error))]
    found = [Finding("ok", "database", _where(url))]
    try:
        if (nothing := _no_file_yet(config, url, metadata)) is not None:
            return found + nothing
        async with asyncio.timeout(config.connect_timeout + config.statement_timeout):
            found += await _connected(engine, config, url, metadata)
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        found.append(Finding("problem", "connect", _refusal(error, url)))
    finally:
        await engine.dispose()
    return found


def _where(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        name = url.database
        file = ":memory:" if in_memory(url) or not name else str(Path(name).absolute())
        return f"{url.drivername}, {file}"
    port = f":{url.port}" if url.port else ""
    role = f" as {url.username}" if url.username else ""
    return f"{url.drivername}, {url.host or 'local socket'}{port}, database {url.database}{role}"


def _no_file_yet(config: DatabaseConfig, url: URL, metadata: MetaData) -> list[Finding] | None:
    """Return what is to be said when the first start is still to make the file, else None."""
    file = Path(url.database or "").absolute()
    if url.get_backend_name() != "sqlite" or in_memory(url) or file.is_file():
        return None
    if not file.parent.is_dir():
        fix = f"there is no folder {file.parent}: create it, or change [database] database"
        return [Finding("problem", "connect", fix)]
    findings = [Finding("ok", "connect", "the file is not there yet; the first start makes it")]
    return [*findings, _tables(metadata, [str(name) for name in metadata.tables], config)]


def _refusal(error: BaseException, url: URL) -> str:
    said = connection_text(error)
    fix = _fix(error, url)
    return f"{said}\n[database] {fix}" if fix else said


def _fix(error: BaseException, url: URL) -> str | None:
    origin: Any = getattr(error, "orig", None)
    state = getattr(origin, "sqlstate", None) or getattr(error, "sqlstate", None)
    if state is not None:
        return _FIXES.get(str(state))
    if url.get_backend_name() == "sqlite":
        return "is the file a SQLite database, and may this account read and write it?"
    if type(error) is ConnectionError:  # asyncpg's alone: what the system says has a class below
        return "tls: the server does not encrypt: switch that on there, or say tls = 'disable' here"
    return next((fix for kind, fix in _UNREACHABLE if isinstance(error, kind)), None)


async def _connected(
    engine: AsyncEngine, config: DatabaseConfig, url: URL, metadata: MetaData
) -> list[Finding]:
    begun = time.perf_counter()
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        took = time.perf_counter() - begun
        return [
            Finding("ok", "connect", f"in {took * 1000:.0f} ms"),
            *await connection.run_sync(_look, config, url, metadata),
        ]


def _look(
    connection: Connection, config: DatabaseConfig, url: URL, metadata: MetaData
) -> list[Finding]:
    findings = [
        Finding("ok", "server", _server(connection)),
        _tls(connection, config, url),
        _pool(connection, config),
        _tables(metadata, missing_tables(connection, metadata), config),
    ]
    if (clock := _CLOCK.get(_family(connection))) is not None:
        findings.append(_clock(connection, clock))
    return findings


def _family(connection: Connection) -> str:
    name = connection.dialect.name
    return "mysql" if name == "mariadb" else name


def _scalar(connection: Connection, query: str) -> Any:
    return connection.execute(text(query)).scalar()


def _server(connection: Connection) -> str:
    match _family(connection):
        case "postgresql":
            return f"PostgreSQL {_scalar(connection, 'SHOW server_version')}"
        case "sqlite":
            mode = _scalar(connection, "PRAGMA journal_mode")
            return f"SQLite {_scalar(connection, 'SELECT sqlite_version()')}, journal mode {mode}"
        case name:
            version = connection.dialect.server_version_info or ()
            return f"{name} {'.'.join(map(str, version))}"


def _tls(connection: Connection, config: DatabaseConfig, url: URL) -> Finding:
    family = _family(connection)
    if family == "sqlite":
        return Finding("ok", "tls", "not needed: it is a file")
    if family == "postgresql" and not config.pgbouncer:
        version = _scalar(
            connection, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"
        )
    elif family == "mysql":
        row = connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_version'")).first()
        version = row[1] if row else None
    else:  # the server knows only how PgBouncer reached it
        version = "on" if config.tls in {"verify", "require"} or remote_hosts(url) else None
    unverified = unverified_host(config)
    if version and unverified:
        return Finding(
            "warning",
            "tls",
            f"{version}, but nobody verifies that {unverified} is the database; "
            f"set [database] tls = 'verify'",
        )
    if version:
        return Finding("ok", "tls", f"{version}, certificate verified")
    if unverified:
        return Finding(
            "warning",
            "tls",
            f"off, and {unverified} is not this machine; set [database] tls = 'verify'",
        )
    return Finding("ok", "tls", "off: the database is on this machine")


def _pool(connection: Connection, config: DatabaseConfig) -> Finding:
    most = config.pool_size + config.max_overflow
    said = f"{config.pool_size} connections, {config.max_overflow} more when all are busy"
    if _family(connection) == "postgresql" and not config.pgbouncer:
        limit = int(_scalar(connection, "SHOW max_connections"))
        reserved = int(_scalar(connection, "SHOW superuser_reserved_connections"))
        # Units that only read have an engine, and so a pool, of their own.
        if 2 * most > limit - reserved:
            return Finding(
                "warning",
                "pool",
                f"{said}, and as many for reading: more than the "
                f"{limit - reserved} of the server; lower [database] pool_size",
            )
        said += f", and as many for reading; the server allows {limit - reserved} in all"
    return Finding("ok", "pool", f"{said}; a unit waits {config.pool_timeout:g} s for one")


def _tables(metadata: MetaData, missing: list[str], config: DatabaseConfig) -> Finding:
    there = len(metadata.tables) - len(missing)
    if not missing:
        return Finding(
            "ok", "tables", f"none is missing of {there}" if there else "no plugin has any"
        )
    names = ", ".join(missing)
    if config.create_tables:
        return Finding("ok", "tables", f"{there} are there; made at the next start: {names}")
    return Finding(
        "problem",
        "tables",
        f"missing: {names}\nrun your migrations, or set [database] create_tables = true",
    )


def _clock(connection: Connection, query: str) -> Finding:
    before = time.time()
    theirs = float(_scalar(connection, query))
    after = time.time()
    difference = theirs - (before + after) / 2
    uncertain = (after - before) / 2
    side = "ahead of" if difference > 0 else "behind"
    said = f"the server's is {abs(difference):.3f} s {side} ours (± {uncertain:.3f} s)"
    if abs(difference) - uncertain > CLOCK_TOLERANCE:
        return Finding("warning", "clock", f"{said}; let both follow the same time server")
    return Finding("ok", "clock", said)
