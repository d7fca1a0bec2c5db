"""A URL that names no driver takes an installed one."""

import sys
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.engine.create import create_engine
from db_manager.engine.url import database_url, replica_url
from db_manager.errors import ConfigError
from db_manager.testing import Databases

CANARY = "c4n4ry-in-a-url"


@pytest.mark.parametrize(
    ("written", "driver"),
    [
        ("postgresql", "postgresql+asyncpg"),
        ("postgres", "postgresql+asyncpg"),
        ("mysql", "mysql+asyncmy"),
        ("mariadb", "mariadb+asyncmy"),
        ("sqlite", "sqlite+aiosqlite"),
        ("postgresql+psycopg", "postgresql+psycopg"),
    ],
)
def test_a_url_without_a_driver_gets_one(written: str, driver: str) -> None:
    """One that names its driver keeps it; everything else of the URL stays."""
    url, password = database_url(DatabaseConfig(url=f"{written}://me:{CANARY}@localhost:99/bot"))
    assert (url.drivername, password) == (driver, CANARY)
    assert (url.username, url.host, url.port, url.database) == ("me", "localhost", 99, "bot")


def test_the_next_driver_is_taken_when_the_first_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without asyncpg it is psycopg, for the replica too."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    config = DatabaseConfig(url="postgres://a/bot", replica="postgresql+psycopg://b/bot")
    assert database_url(config)[0].drivername == "postgresql+psycopg"
    assert replica_url(config) is not None


@pytest.mark.parametrize(
    ("written", "packages"), [("postgres", "asyncpg or psycopg"), ("mysql", "asyncmy")]
)
def test_without_any_driver_it_is_said_what_to_install(
    written: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the packages in the order of preference, and shows no password."""
    for package in packages.split(" or "):
        monkeypatch.setitem(sys.modules, package, None)
    makers: dict[str, Callable[[str], object]] = {
        "[database] url": lambda url: create_engine(DatabaseConfig(url=url)),
        "sandbox_url": Databases,
    }
    for key, make in makers.items():
        with pytest.raises(ConfigError) as caught:
            make(f"{written}://me:{CANARY}@localhost/bot")
        assert str(caught.value) == (
            f"{key}: {written}:// needs an async driver, and none is installed: pip install "
            f"{packages}"
        )


@pytest.mark.parametrize("written", ["mysql", "mariadb"])
async def test_both_names_of_mariadb_reach_it(mariadb_database: URL, written: str) -> None:
    """The server answers under either name, from the environment as from the file."""
    url = mariadb_database.set(drivername=written).render_as_string(hide_password=False)
    engine = create_engine(DatabaseConfig(url=url))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


def test_the_environment_may_write_it_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DATABASE__URL=postgres://…`, as hosts of bots set it."""
    monkeypatch.setenv("DATABASE__URL", "postgres://me@localhost/bot")
    assert database_url(DatabaseConfig())[0].drivername == "postgresql+asyncpg"


@pytest.mark.parametrize("written", ["postgres", "postgresql"])
async def test_a_sandbox_may_be_on_such_a_server(postgres_admin: URL, written: str) -> None:
    """`sandbox_url = "postgres://…"` creates its databases there."""
    databases = Databases(postgres_admin.set(drivername=written))
    url = await databases.create()
    assert url.drivername == "postgresql+asyncpg"
    await databases.close()
