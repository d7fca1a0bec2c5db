"""A project with migrations, on each database."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.project import PREFIX, Project


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg", "asyncmy"])
def server_url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for every driver."""
    backends = {"aiosqlite": "sqlite", "asyncmy": "mariadb"}
    backend = backends.get(request.param, "postgres")
    url: URL = request.getfixturevalue(f"{backend}_database")
    return url.set(drivername=f"postgresql+{request.param}") if backend == "postgres" else url


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Forget the modules that a test has imported."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(PREFIX):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, server_url: URL) -> Project:
    """A project, once on each database."""
    return Project.at(tmp_path / "project", server_url)


@pytest.fixture
def sqlite_project(tmp_path: Path, sqlite_database: URL) -> Project:
    """A project on SQLite."""
    return Project.at(tmp_path / "project", sqlite_database)
