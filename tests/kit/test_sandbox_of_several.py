"""A sandbox of a bot with several databases: each plugin that is loaded has its own."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, func, inspect, select
from sqlalchemy.engine import URL, Connection
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import connected

from db_manager import NAMING_CONVENTION, Base, DatabasePlugin
from db_manager.testing import Databases, Sandbox
from lifecycle.application import Application


class SandBase(Base):
    """The base of another database."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Grain(SandBase):
    """Something to count."""

    __tablename__ = "sand__grain"

    id: Mapped[int] = mapped_column(primary_key=True)


class Sand(DatabasePlugin):
    """Another database."""

    name = "sand"
    metadata = SandBase.metadata


COUNT = select(func.count()).select_from(Grain)


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def sandbox_url(request: pytest.FixtureRequest) -> str | URL:
    """Sandboxes on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return ""
    url: URL = request.getfixturevalue("postgres_admin")
    return url


@pytest.fixture
async def databases(sandbox_url: str | URL) -> AsyncIterator[Databases]:
    """Makes databases that nobody else makes, for tests that look at what is left."""
    databases = Databases(sandbox_url)
    yield databases
    await databases.close()


def tables(connection: Connection) -> list[str]:
    """Return the tables of a database."""
    names: list[str] = inspect(connection).get_table_names()
    return names


async def exists(url: URL) -> bool:
    """Return whether there is a database at *url*, asked past everything under test."""
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").parent.exists()
    async with connected(url.set(database="postgres")) as admin:
        sql = "SELECT count(*) FROM pg_database WHERE datname = $1"
        return bool(await admin.fetchval(sql, url.database))


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_plugin_has_its_own(sandbox: Sandbox, turn: int) -> None:
    """It has the plugin's tables and no other, and is empty when a test begins."""
    for already in range(2):
        app = await sandbox.start(Sand)
        async with app.services["sand:engine"].connect() as connection:
            assert await connection.run_sync(tables) == ["sand__grain"], turn
        async with app.services["sand:uow_factory"]() as uow:
            assert await uow.session.scalar(COUNT) == already
            uow.session.add(Grain())
        await app.unload()
    async with sandbox.engine.connect() as connection:
        assert "sand__grain" not in await connection.run_sync(tables)


async def test_it_is_dropped_with_the_sandbox(databases: Databases) -> None:
    """Also while an application is still on it; a sandbox that loads no such plugin makes none."""
    async with Sandbox.open(databases) as sandbox:
        await sandbox.start(Sand)
        url = sandbox.urls["sand"]
        assert await exists(url)
    assert not await exists(url)
    async with Sandbox.open(databases) as sandbox:
        await sandbox.start()
        assert list(sandbox.urls) == ["database"]


async def test_no_configuration_leads_out_of_it(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that makes its own application finds its databases here, and no replica."""
    precious = tmp_path / "precious.sqlite3"
    monkeypatch.setenv("SAND__URL", f"sqlite+aiosqlite:///{precious}")
    monkeypatch.setenv("SAND__PASSWORD_FILE", str(tmp_path / "absent"))
    there = {"url": "postgresql+asyncpg://bot@db.example.com/bot"}
    config = {
        "app": {"journal": "memory"},
        "database": {**there, "replica": "postgresql+asyncpg://bot@replica.example.com/bot"},
        "sand": {**there, "pool_size": 3, "replica": there["url"]},
    }
    async with Sandbox.open(databases) as sandbox:
        app = Application([DatabasePlugin, Sand], config=config)
        await app.start()
        engine = app.services["sand:engine"]
        assert engine.url.database == sandbox.urls["sand"].database
        assert engine.sync_engine.pool.size() == 3
        assert "sand:replica" not in app.probes
        async with app.services["db_manager:uow_factory"](read_only="replica") as uow:
            assert await uow.session.scalar(select(1)) == 1
        await app.unload()
    assert not precious.exists()


async def test_a_child_process_is_led_there(sandbox: Sandbox) -> None:
    """Once the configuration was read, the environment has the address."""
    sandbox.application(Sand)
    shown = sandbox.urls["sand"].render_as_string(hide_password=False)
    assert os.environ["SAND__URL"] == shown
    assert os.environ["SAND__REPLICA"] == ""
