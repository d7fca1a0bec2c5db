"""Copies a PostgreSQL database into a file with `pg_dump`."""

import asyncio
import math
import os
import re
import shutil
import ssl
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.dialects.access import Access
from db_manager.errors import BackupError
from lifecycle.printable import printable

_PROGRAM: Final = "pg_dump"
#: The endings of files that hold SQL; every other file is for `pg_restore`.
_SQL: Final = frozenset({".sql"})
#: Lines of the program's errors that are shown, and most characters of them.
_LAST_LINES: Final = 3
_LONGEST: Final = 500
#: Variables with which libpq goes elsewhere than a host that is named, and the engine does not.
_ELSEWHERE: Final = frozenset({"PGHOSTADDR", "PGSERVICE"})
#: As libpq names what `[database] tls` says.
_TLS: Final = {"verify": "verify-full", "require": "require", "disable": "disable"}


async def dump_database(engine: AsyncEngine, access: Access, target: Path, ending: str) -> None:
    """Let `pg_dump` copy the database of *engine* into the file *target*.

    Args:
        engine: The engine, which is asked for the version of the server.
        access: How the program reaches the same server.
        target: An empty file; after an error it has a part of the copy, or nothing.
        ending: The ending of the file that it becomes: SQL for `.sql`, else for `pg_restore`.

    Raises:
        BackupError: The program is missing, older than the server, or says an error.
    """
    if access.pgbouncer:
        raise BackupError(
            "pg_dump needs a connection of its own, and [database] pgbouncer says that there is "
            "none; name the server: DATABASE__PGBOUNCER=false DATABASE__PORT=5432"
        )
    program = shutil.which(_PROGRAM)
    if program is None:
        raise BackupError(
            "pg_dump is not installed; on Debian: apt install postgresql-client, of the server's "
            "version or newer"
        )
    async with engine.connect() as connection:
        server = int((connection.dialect.server_version_info or (0,))[0])
    _, said = await _run(program, ["--version"], dict(os.environ))
    found = re.search(r"\) (\d+)", said)
    if found is not None and int(found[1]) < server:
        raise BackupError(
            f"{program} is of PostgreSQL {found[1]}, and the server is {server}; install "
            f"postgresql-client-{server} or newer"
        )
    kind = "plain" if ending in _SQL else "custom"
    arguments = [f"--format={kind}", "--no-password", f"--file={target}"]
    code, said = await _run(program, arguments, _environment(access))
    if code:
        lines = printable(" ".join(said.strip().splitlines()[-_LAST_LINES:])[-_LONGEST:])
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise BackupError(f"pg_dump {how}: {lines or 'it said nothing'}")


async def _run(program: str, arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        program, *arguments, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        out, errors = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, (out + errors).decode(errors="replace")


def _environment(access: Access) -> dict[str, str]:
    """Return what libpq reads: everybody can see the arguments of a program."""
    url = access.url
    hosts = url.query.get("host", ())
    named = hosts.split(",") if isinstance(hosts, str) else list(hosts)
    pairs = [_host_and_port(each) for each in named] or [(url.host or "", "")]
    port = url.query.get("port", "")
    variables = {
        "PGHOST": ",".join(host for host, _ in pairs),
        "PGPORT": str(url.port or port or ",".join(port for _, port in pairs)).strip(","),
        "PGUSER": url.username or "",
        "PGDATABASE": url.database or "",
        "PGPASSWORD": access.password or "",
        "PGCONNECT_TIMEOUT": str(max(2, math.ceil(access.connect_timeout))),  # 1 counts as 2 there
        "PGAPPNAME": _PROGRAM,
    }
    if access.tls is not None:
        variables["PGSSLMODE"] = _TLS[access.tls]
    if access.tls == "verify":
        variables["PGSSLROOTCERT"] = str(access.tls_ca or _authorities())
    passed = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    given = passed if variables["PGHOST"] else os.environ
    return dict(given) | {name: value for name, value in variables.items() if value}


def _host_and_port(named: str) -> tuple[str, str]:
    if named.startswith("/"):
        return named, ""
    host, _, port = named.partition(":")
    return host, port


def _authorities() -> str:
    """Return the file of the CAs that Python trusts; libpq by itself trusts none before 16."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.openssl_cafile
