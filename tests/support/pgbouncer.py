"""PgBouncer in transaction mode, where it is installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy.engine import URL
from support.ports import free_port

_START_SECONDS = 10.0


def pgbouncer_program() -> str:
    """Return where PgBouncer is installed; without it, as pip has none, a test is not run."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("not run: pgbouncer is not installed")
    return program


class PgBouncer:
    """A PgBouncer of our own in front of a server; a context manager.

    Args:
        program: Its program.
        server: URL of the server, with the user that it connects as.
        pool_size: Connections to each database of the server.
        settings: More settings for pgbouncer.ini, by name.
    """

    host = "127.0.0.1"

    def __init__(self, program: str, server: URL, *, pool_size: int = 2, **settings: str) -> None:
        self.port = free_port()
        self._program = program
        self._server = server
        self._settings = {"default_pool_size": str(pool_size), **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, url: URL) -> URL:
        """Return *url* with PgBouncer in place of the server."""
        return url.set(host=self.host, port=self.port)

    def _configure(self, file: Path) -> None:
        server = f"host={self._server.host} port={self._server.port or 5432}"
        server += f" user={self._server.username}"
        if self._server.password:
            server += f" password={self._server.password}"
        settings = {
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",  # the line of the database says who connects
            "pool_mode": "transaction",
            "max_client_conn": "500",
            **self._settings,
        }
        lines = ["[databases]", f"* = {server}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        file.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self._home = Path(tempfile.mkdtemp(prefix="db_manager_pgbouncer_"))
        self._home.chmod(0o755)
        self._configure(self._home / "pgbouncer.ini")
        account: dict[str, Any] = {}
        if os.geteuid() == 0:  # which it refuses to run as
            nobody = pwd.getpwnam("nobody")
            account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, self._home / "pgbouncer.ini"], stdout=log, stderr=log, **account
            )
        deadline = time.monotonic() + _START_SECONDS
        # Its own words: somebody else's server on the port would answer a connection as well.
        while f"listening on {self.host}:{self.port}" not in (said := self._log()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"PgBouncer did not start:\n{said}")
            time.sleep(0.005)
        return self

    def _log(self) -> str:
        return (self._home / "log").read_text()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
        shutil.rmtree(self._home, ignore_errors=True)
