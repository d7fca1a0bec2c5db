"""TLS that verifies refuses whoever cannot prove who it is: S3."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted
from support.postgres import PostgresServer
from support.postgres_binaries import installation, private_folder

from db_manager.errors import DatabaseUnavailableError
from db_manager.uow import UnitOfWork

Row = Callable[..., None]


def programs_with_tls() -> Path | None:
    """Return the folder of an installed PostgreSQL that can do TLS, or None; Debian's can."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and shutil.which("openssl") else None


@pytest.fixture(scope="module")
def programs() -> Path | None:
    """Folder of programs with TLS, or None."""
    return programs_with_tls()


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A folder with a key and a self-signed certificate for `localhost`."""
    folder = private_folder("db_manager_tls_")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)
    _, account = installation()
    if account:
        os.chown(folder / "key.pem", account["user"], account["group"])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def clear_server() -> Iterator[PostgresServer]:
    """Run a server without TLS."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(programs: Path | None, request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """Run a server with TLS, where programs for one are installed."""
    if programs is None:
        pytest.skip("not run: no PostgreSQL with TLS, or no openssl, is installed")
    certificate: Path = request.getfixturevalue("certificate")
    with PostgresServer(
        programs=programs,
        ssl="on",
        ssl_key_file=str(certificate / "key.pem"),
        ssl_cert_file=str(certificate / "certificate.pem"),
    ) as server:
        yield server


async def is_encrypted(url: URL, **keys: Any) -> bool:
    """Connect with the keys of [database]; return what the server says about the connection."""
    async with accounted(url, **keys) as database, UnitOfWork(database) as uow:
        asked = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return bool(await uow.session.scalar(asked))


async def assert_refused(url: URL, **keys: Any) -> None:
    """Assert that no unit begins."""
    with pytest.raises(DatabaseUnavailableError):
        await is_encrypted(url, **keys)


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver."""
    return str(request.param)


async def test_a_server_without_tls_is_refused(
    clear_server: PostgresServer, driver: str, row: Row, programs: Path | None
) -> None:
    """Clear text is never spoken where `tls` says verify or require. S3."""
    url = clear_server.url(driver=driver).set(host="localhost")
    await assert_refused(url, tls="verify")
    await assert_refused(url, tls="require")
    assert not await is_encrypted(url, tls="disable")
    row("S3", load=f"server without TLS, {driver}", result="refused by verify and require")
    if programs is None:
        row(
            "S3", load=f"certificates, {driver}", result="not run: no PostgreSQL with TLS installed"
        )


async def test_a_server_that_cannot_prove_itself_is_refused(
    tls_server: PostgresServer, certificate: Path, driver: str, row: Row
) -> None:
    """An unknown authority and a wrong host name are refused, the right ones are encrypted. S3."""
    url = tls_server.url(driver=driver).set(host="localhost")
    known = certificate / "certificate.pem"
    await assert_refused(url, tls="verify")
    await assert_refused(url.set(host="127.0.0.1"), tls_ca=known)
    assert await is_encrypted(url, tls_ca=known)
    assert await is_encrypted(url, tls="require")
    row(
        "S3",
        load=f"self-signed, wrong host, right host, {driver}",
        result="refused, refused, encrypted",
    )
