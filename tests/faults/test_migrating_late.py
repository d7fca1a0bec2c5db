"""Migrations of a database that comes late, and replicas that are older than it: M17 and M18."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import NotSupportedError
from support.accounting import connected
from support.postgres import PostgresServer
from support.project import Project
from support.shop import application, shop_at

from db_manager.database import availability
from db_manager.errors import DatabaseUnavailableError
from db_manager.unit.uow import UnitOfWork
from lifecycle.event import Event
from observability.testing import EventRecorder

BROKEN = "def upgrade():\n    op.drop_table('shop__nothing')"
OLD = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(20))
"""
NEW = OLD + "    price: Mapped[int] = mapped_column(default=5)\n"

Row = Callable[..., None]


@pytest.fixture(scope="module")
def installed_server() -> Iterator[PostgresServer]:
    """Install a server of this module's own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def server(installed_server: PostgresServer) -> PostgresServer:
    """That server, with an empty database, and stopped."""
    await asyncio.to_thread(installed_server.restart, "immediate")
    async with connected(installed_server.url()) as admin:
        await admin.execute("DROP SCHEMA public CASCADE")
        await admin.execute("CREATE SCHEMA public")
    await asyncio.to_thread(installed_server.stop, "immediate")
    return installed_server


# -- M17 ----------------------------------------------------------------------------------


async def test_a_late_database_is_migrated_before_units_are_served(
    server: PostgresServer, tmp_path: Path, row: Row
) -> None:
    """M17: a bot starts without its database; when that comes, its units find the new tables."""
    project = shop_at(tmp_path / "shop", server.url())
    app = application(project)
    with EventRecorder(app.bus) as events:
        async with app:
            factory = app.services["db_manager:uow_factory"]
            events.assert_event("plugin.degraded", plugin="db_manager")
            await asyncio.to_thread(server.start)
            seen = await _first_answers(factory)
            await events.wait_for("plugin.recovered", timeout=30)
    assert seen == {8}
    events.assert_sequence(
        "plugin.degraded",
        "app.started",
        "database.migrating",
        "database.migrated",
        "database.migrating",
        "database.migrated",
        "plugin.recovered",
    )
    row(
        "M17",
        load="the server comes after the start, with two migrations pending",
        result="migrated, then recovered; no unit saw the tables before",
    )


async def _first_answers(factory: Callable[..., UnitOfWork]) -> set[object]:
    """Ask in units that write and in those that read; return what the first of each answer."""
    seen: set[object] = set()
    for read_only in (True, False):
        while True:
            try:
                async with factory(read_only=read_only) as uow:
                    seen.add(await uow.session.scalar(text("SELECT n FROM shop__item")))
                    break
            except DatabaseUnavailableError:
                await asyncio.sleep(0)
    return seen


async def fail_late(server: PostgresServer, folder: Path) -> list[Event]:
    """Let a migration fail when the server comes; return what happened until nobody tries more."""
    project = shop_at(folder, server.url(), BROKEN)
    app = application(project)
    with EventRecorder(app.bus) as events:
        async with app:
            await asyncio.to_thread(server.start)
            await events.wait_for("database.migration_failed", timeout=30)
            tasks = [t for t in asyncio.all_tasks() if t.get_name() == "db_manager.reconnect"]
            await asyncio.wait(tasks, timeout=3)
            for read_only in (False, True):
                with pytest.raises(DatabaseUnavailableError, match="0002_second"):
                    async with app.services["db_manager:uow_factory"](read_only=read_only) as uow:
                        await uow.session.execute(text("SELECT 1"))
            assert app.plugins["db_manager"].is_degraded
    return list(events.events)


def assert_failed_once(events: list[Event]) -> None:
    """Assert that it was tried once, and that the plugin says why it is degraded."""
    topics = [event.topic for event in events]
    assert topics.count("database.migration_failed") == 1
    assert "plugin.recovered" not in topics
    reasons = [e.as_dict()["reason"] for e in events if e.topic == "plugin.degraded"]
    assert "migration 0002_second of 'shop'" in reasons[-1]
    assert "UndefinedTableError" in reasons[-1]


async def test_a_failing_one_is_not_repeated_for_ever(
    server: PostgresServer, tmp_path: Path, row: Row
) -> None:
    """M17: the plugin is degraded for this reason, and units of every kind are refused for it."""
    assert_failed_once(await fail_late(server, tmp_path / "shop"))
    row(
        "M17",
        load="the server comes after the start, and a migration fails",
        result="tried once; degraded, and units refused, with its reason",
    )


async def test_one_that_is_repeated_is_noticed(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M17, the wrong way: a failed migration is taken for a server that is not there yet."""
    monkeypatch.setattr(availability, "_is_retried", lambda error: isinstance(error, Exception))
    events = await fail_late(server, tmp_path / "shop")
    with pytest.raises(AssertionError):
        assert_failed_once(events)


# -- M18 ----------------------------------------------------------------------------------


async def test_old_replicas_write_and_read_on(tmp_path: Path, url: URL, row: Row) -> None:
    """M18: a column that is added has its default, and `run` repeats over a plan that is stale."""
    project = Project.at(tmp_path / "shop", url)
    project.models(OLD)
    await project.revision()
    app = application(project)
    async with app:
        factory = app.services["db_manager:uow_factory"]
        item = project.metadata.tables["shop__item"]

        async def write(uow: UnitOfWork, number: int) -> None:
            await uow.session.execute(item.insert().values(id=number, title="tea"))

        async def read(uow: UnitOfWork) -> int:
            return len((await uow.session.execute(text("SELECT * FROM shop__item"))).all())

        await factory.run(lambda uow: write(uow, 1))
        assert await factory.run(read) == 1
        newer = Project.on(project.folder, url)
        newer.models(NEW)
        assert await newer.revision() is not None
        await newer.upgrade()
        await factory.run(lambda uow: write(uow, 2))
        assert await factory.run(read) == 2
    assert await newer.say("SELECT price FROM shop__item") == [(5,), (5,)]
    row(
        "M18",
        load=f"{url.drivername}: a column is added while a replica of the old version works",
        result="it writes and reads on",
    )


async def test_without_run_a_stale_plan_is_an_error(tmp_path: Path, postgres_database: URL) -> None:
    """M18, the wrong way: asyncpg says so once on each connection, to whoever does not repeat."""
    project = shop_at(tmp_path / "shop", postgres_database)
    await project.upgrade("0001")
    app = application(project, migrate="off", pool_size=1)
    async with app:
        factory = app.services["db_manager:uow_factory"]
        reading = text("SELECT * FROM shop__item")
        async with factory() as uow:
            await uow.session.execute(reading)
        await project.upgrade()
        with pytest.raises(NotSupportedError, match="cached statement plan is invalid"):
            async with factory() as uow:
                await uow.session.execute(reading)
        async with factory() as uow:
            assert (await uow.session.execute(reading)).all() == [(1, 8)]
