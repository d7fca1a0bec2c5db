"""TLS that verifies refuses whoever cannot prove who it is, and a refusal leaves no socket: S3."""

import asyncio
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted
from support.postgres import PostgresServer
from support.postgres_binaries import installation, private_folder

from db_manager.dialects.postgresql.asyncpg_connection import connect
from db_manager.errors import DatabaseUnavailableError
from db_manager.unit.uow import UnitOfWork

Row = Callable[..., None]

#: Seconds in which a socket must be closed; asyncio waits 30 for a goodbye in TLS.
SOON = 10.0


def refusal(code: str) -> bytes:
    """Return what a server says that refuses a session, with that SQLSTATE."""
    fields = b"SFATAL\0VFATAL\0C" + code.encode() + b"\0Mrefused\0\0"
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


#: What a server that never says goodbye may say to whoever wants a session; nothing is silence.
ANSWERS = {
    "wrong password": refusal("28P01"),
    "no database": refusal("3D000"),
    "starting up": refusal("57P03"),
    "too many": refusal("53300"),
    "unknown question": b"R" + struct.pack("!ii", 8, 99),
    "silence": b"",
}


def programs_with_tls() -> Path | None:
    """Return the folder of an installed PostgreSQL that can do TLS, or None; Debian's can."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and shutil.which("openssl") else None


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
def tls_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """Run a server with TLS, where programs for one are installed."""
    programs = programs_with_tls()
    if programs is None:  # those of pip are built without it
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
    clear_server: PostgresServer, driver: str, row: Row
) -> None:
    """Clear text is never spoken where `tls` says verify or require. S3."""
    url = clear_server.url(driver=driver).set(host="localhost")
    await assert_refused(url, tls="verify")
    await assert_refused(url, tls="require")
    assert not await is_encrypted(url, tls="disable")
    row("S3", load=f"server without TLS, {driver}", result="refused by verify and require")


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


class RudeServer:
    """Takes one connection, and never says goodbye.

    Args:
        certificate: Folder of its key and its certificate.
        answer: What it says to whoever wants a session; None falls silent before TLS begins.
    """

    def __init__(self, certificate: Path, answer: bytes | None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SOON)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        #: Set when it has said all it says.
        self.spoke = asyncio.Event()

    def serve(self) -> bool:
        """Take the connection; return True when the client closed its socket soon."""
        with self._listener, self._listener.accept()[0] as client:
            client.settimeout(SOON)
            with client.dup() as below:  # a goodbye in TLS is not the end of the socket
                below.settimeout(SOON)
                client.recv(8)
                with self._speak(client):
                    self._loop.call_soon_threadsafe(self.spoke.set)
                    return _ends(below)

    def _speak(self, client: socket.socket) -> socket.socket:
        if self._answer is None:
            return client
        client.sendall(b"S")
        secured = self._context.wrap_socket(client, server_side=True)
        secured.recv(4096)
        secured.sendall(self._answer)
        return secured


def _ends(below: socket.socket) -> bool:
    try:
        while below.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


async def attempt_leaves_nothing(certificate: Path, answer: bytes | None, connect: Any) -> bool:
    """Fail to connect to a rude server; return True when the socket of the attempt is closed."""
    server = RudeServer(certificate, answer)
    serving = asyncio.create_task(asyncio.to_thread(server.serve))
    known = ssl.create_default_context(cafile=certificate / "certificate.pem")
    attempt = asyncio.create_task(
        connect(host="localhost", port=server.port, user="bot", database="bot", ssl=known)
    )
    await server.spoke.wait()
    if not answer:
        attempt.cancel()
    error: Any = (await asyncio.gather(attempt, return_exceptions=True))[0]
    assert isinstance(error, BaseException)
    told = error.__cause__ or error  # SQLAlchemy 2.0 is told an error of its own adapter
    assert isinstance(told, (asyncpg.PostgresError, asyncpg.InterfaceError, asyncio.CancelledError))
    return await serving


@pytest.mark.parametrize("answer", [None, *ANSWERS.values()], ids=["no TLS", *ANSWERS])
async def test_a_failed_attempt_leaves_no_socket(certificate: Path, answer: bytes | None) -> None:
    """Whatever ended an attempt to connect, its socket is closed before the server is done."""
    assert await attempt_leaves_nothing(certificate, answer, connect)


async def test_without_us_a_refused_attempt_leaves_its_socket(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check rejects asyncpg's own `connect`, which waits for the server's goodbye."""
    monkeypatch.setitem(globals(), "SOON", 0.5)
    assert not await attempt_leaves_nothing(certificate, ANSWERS["no database"], asyncpg.connect)
