"""A PostgreSQL server that follows another one: a hot standby, as a read replica is."""

import subprocess

from support.postgres import PostgresServer


class Standby(PostgresServer):
    """A hot standby of *primary*, which is running; a context manager.

    Args:
        primary: The server that it follows.
        patience: How long a read may keep it from following, as PostgreSQL writes it.
    """

    def __init__(self, primary: PostgresServer, *, patience: str = "30s") -> None:
        self._primary = primary
        super().__init__(max_standby_streaming_delay=patience)

    def _initialise(self) -> None:
        primary = self._primary
        self._data.chmod(0o700)  # initdb does that for others
        command = [str(self._binaries / "pg_basebackup"), "-D", str(self._data), "-R", "-N"]
        command += ["-c", "fast", "-h", primary.host, "-p", str(primary.port), "-U", primary.user]
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command, capture_output=True, check=False, cwd=self._data, **self._account
        )
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{done.stderr.decode()}")
