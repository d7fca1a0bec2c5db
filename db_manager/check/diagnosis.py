"""Connects to the database as the bot would, and reports what is there and what is wrong."""

import asyncio
import time
from pathlib import Path
from typing import Final

import sqlalchemy.exc
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.base import Base
from db_manager.check.finding import Finding
from db_manager.check.schema_state import SchemaState
from db_manager.config import DatabaseConfig, env_prefix
from db_manager.dialects.dialect import Dialect, scalar
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.create import create_engine
from db_manager.engine.tls import unverified_host
from db_manager.engine.url import database_url, remote_hosts, replica_url
from db_manager.errors import ConfigError
from db_manager.schema import missing_tables
from lifecycle.errors import counted

#: Difference of the clocks, in seconds, above which there is a warning.
CLOCK_TOLERANCE: Final = 1.0


async def diagnose(config: DatabaseConfig, metadata: MetaData = Base.metadata) -> list[Finding]:
    """Return the findings about a database, without changing it.

    Args:
        config: The section [database].
        metadata: The tables that should exist.
    """
    try:
        url = database_url(config)[0]
        dialect = dialect_at(url)
        # A read-only engine, where there is one, guarantees that nothing is changed.
        read_only = dialect.has_reader and not config.pgbouncer
        engine = create_engine(config, read_only=read_only)
    except ConfigError as error:
        return [Finding("problem", config.section, str(error))]
    state = SchemaState(config, metadata)
    found = [Finding("ok", config.section, dialect.place(url)), *state.broken]
    try:
        nothing = _no_file_yet(config, dialect.file(url), state)
        if nothing is None:
            async with asyncio.timeout(config.connect_timeout + config.statement_timeout):
                found += await _connected(engine, config, url, state)
            found += await _replica(engine, config, metadata)
        found += [*(nothing or ()), *await state.due()]
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        found.append(Finding("problem", "connect", _refusal(error, dialect, config)))
    finally:
        await engine.dispose()
    return found


def _no_file_yet(
    config: DatabaseConfig, file: Path | None, state: SchemaState
) -> list[Finding] | None:
    """Return the findings for a file that the first start will create; None if it exists."""
    if file is None or file.is_file():
        return None
    if not file.parent.is_dir():
        key = f"[{config.section}] database"
        fix = f"there is no directory {file.parent}: create it, or change {key}"
        return [Finding("problem", "connect", fix)]
    findings = [Finding("ok", "connect", "the file does not exist yet; the first start creates it")]
    return findings + state.before_the_first_start()


def _refusal(error: BaseException, dialect: Dialect, config: DatabaseConfig) -> str:
    said = connection_text(error)
    fix = (dialect.fix(error) or "").replace("{prefix}", env_prefix(config.section))
    return f"{said}\n[{config.section}] {fix}" if fix else said


async def _replica(
    engine: AsyncEngine, config: DatabaseConfig, metadata: MetaData
) -> list[Finding]:
    """Return what is found about the read replica; without it the bot works, so it only warns."""
    me = f"[{config.section}]"
    try:
        if (found := replica_url(config)) is None:
            return []
        dialect = dialect_at(found[0])
        place = dialect.place(found[0])
        read_only = dialect.has_reader and not config.pgbouncer
        replica = create_engine(config, read_only=read_only, replica=True)
    except ConfigError as error:
        return [Finding("problem", "replica", str(error))]
    try:
        async with asyncio.timeout(config.connect_timeout + config.statement_timeout):
            here, there = await _missing(engine, metadata), await _missing(replica, metadata)
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        said = connection_text(error)
        text = f"{place}: {said}\nthe database itself answers until this one does"
        return [Finding("warning", "replica", text)]
    finally:
        await replica.dispose()
    if lacks := [name for name in there if name not in here]:
        text = f"{place} lacks {', '.join(lacks)}; is it a replica of this database?"
        return [Finding("warning", "replica", text)]
    if unverified := unverified_host(config, found[0]):
        text = f"{place}; the certificate of {unverified} is not verified: set {me} tls = 'verify'"
        return [Finding("warning", "replica", text)]
    return [Finding("ok", "replica", place)]


async def _missing(engine: AsyncEngine, metadata: MetaData) -> list[str]:
    async with engine.connect() as connection:
        return await connection.run_sync(missing_tables, metadata)


async def _connected(
    engine: AsyncEngine, config: DatabaseConfig, url: URL, state: SchemaState
) -> list[Finding]:
    begun = time.perf_counter()
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        took = time.perf_counter() - begun
        return [
            Finding("ok", "connect", f"in {took * 1000:.0f} ms"),
            *await connection.run_sync(_look, config, url, state),
        ]


def _look(
    connection: Connection, config: DatabaseConfig, url: URL, state: SchemaState
) -> list[Finding]:
    dialect = dialect_of(connection.dialect)
    findings = [
        Finding("ok", "server", dialect.server(connection)),
        _tls(connection, config, url, dialect),
        _pool(None if config.pgbouncer else dialect.most_connections(connection), config),
        *state.look(connection),
    ]
    if dialect.clock_query:
        findings.append(_clock(connection, dialect.clock_query))
    return findings


def _tls(connection: Connection, config: DatabaseConfig, url: URL, dialect: Dialect) -> Finding:
    if not dialect.has_server:
        return Finding("ok", "tls", "not needed: it is a file")
    if dialect.tls_query and not config.pgbouncer:
        row = connection.execute(text(dialect.tls_query)).first()
        version = row[-1] if row else None
    else:  # the server only sees its connection to PgBouncer
        version = "on" if config.tls in {"verify", "require"} or remote_hosts(url) else None
    unverified = unverified_host(config, url)
    if version and unverified:
        return Finding(
            "warning",
            "tls",
            f"{version}, but the certificate of {unverified} is not verified; "
            f"set [{config.section}] tls = 'verify'",
        )
    if version:
        return Finding("ok", "tls", f"{version}, certificate verified")
    if unverified:
        return Finding(
            "warning",
            "tls",
            f"off, and {unverified} is not this machine; set [{config.section}] tls = 'verify'",
        )
    return Finding("ok", "tls", "off: the database is on this machine")


def _pool(limit: int | None, config: DatabaseConfig) -> Finding:
    most = config.pool_size + config.max_overflow
    kept = counted(config.pool_size, "connection")
    busy = "it is" if config.pool_size == 1 else "all are"
    said = f"{kept}, {config.max_overflow} more when {busy} busy"
    if limit is not None:
        # Read-only units have a separate engine, and therefore a second pool.
        if 2 * most > limit:
            return Finding(
                "warning",
                "pool",
                f"{said}, and as many again for reading: more than the "
                f"{limit} of the server; lower [{config.section}] pool_size",
            )
        said += f", and as many again for reading; the server allows {limit} in total"
    return Finding("ok", "pool", f"{said}; a unit waits {config.pool_timeout:g} s for one")


def _clock(connection: Connection, query: str) -> Finding:
    before = time.time()
    theirs = float(scalar(connection, query))
    after = time.time()
    difference = theirs - (before + after) / 2
    uncertain = (after - before) / 2
    side = "ahead of" if difference > 0 else "behind"
    said = f"the server's is {abs(difference):.3f} s {side} ours (± {uncertain:.3f} s)"
    if abs(difference) - uncertain > CLOCK_TOLERANCE:
        return Finding("warning", "clock", f"{said}; synchronise both with the same time server")
    return Finding("ok", "clock", said)
