"""What a start does about migrations: apply, check, warn, refuse; and nothing where nothing is."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.project import Project

from db_manager import DatabasePlugin
from db_manager.migrations.failure import MigrationError, MigrationsPendingError
from lifecycle import Application, MemoryJournal, PluginFailedError
from lifecycle.event import Event

MODELS = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)

class Visit(Base):
    __tablename__ = "guests__visit"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


def application(project: Project, **keys: Any) -> tuple[Application, list[Event]]:
    """Return a bot on the models of *project*, and what it publishes."""
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": project.metadata})
    section = {"url": project.url, **keys}
    app = Application([plugin], config={"database": section}, journal=MemoryJournal())
    told: list[Event] = []
    app.bus.subscribe("database.*", told.append)
    return app, told


async def tables(project: Project) -> set[object]:
    """Return the names of the tables that are there."""
    found = await project.say("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in found}


@pytest.fixture
async def shop(sqlite_project: Project) -> Project:
    """Two plugins with a table each, of which one has a revision."""
    sqlite_project.models(MODELS)
    await sqlite_project.revision("shop")
    return sqlite_project


async def test_a_start_applies_and_creates(shop: Project) -> None:
    """Tables with a history come from it, the others are created; the second start does nothing."""
    app, told = application(shop)
    async with app:
        assert await tables(shop) == {"shop__item", "shop__alembic_version", "guests__visit"}
    assert [event.as_dict().get("tables") for event in told] == [
        ("guests__visit",),
        None,
        None,
        None,
    ]
    assert [event.topic for event in told] == [
        "database.tables_created",
        "database.migrating",
        "database.migrated",
        "database.drained",
    ]
    app, told = application(shop)
    async with app:
        pass
    assert [event.topic for event in told] == ["database.drained"]


@pytest.mark.matrix(
    "M14",
    load="a plugin that was removed, and a start",
    result="starts as before; its tables and version stay",
)
async def test_a_plugin_that_was_removed_is_noticed_by_nobody(shop: Project) -> None:
    """Its tables and its version stay; the others start as they did."""
    await shop.say(
        "CREATE TABLE gone__item (id INTEGER)",
        "CREATE TABLE gone__alembic_version (version_num VARCHAR(32))",
        "INSERT INTO gone__alembic_version VALUES ('0007_last')",
    )
    app, told = application(shop)
    async with app:
        pass
    assert not [event for event in told if event.topic == "database.drifted"]
    assert await tables(shop) >= {"gone__item", "shop__item"}
    assert await shop.say("SELECT version_num FROM gone__alembic_version") == [("0007_last",)]


async def test_two_plugins_with_migrations_start_again(shop: Project) -> None:
    """What each of them is at is one question."""
    await shop.revision("guests")
    for applied in (["guests", "shop"], []):
        app, told = application(shop)
        async with app:
            pass
        assert [e.as_dict()["plugin"] for e in told if e.topic == "database.migrated"] == applied


async def test_check_refuses_while_something_is_pending(shop: Project) -> None:
    """The text names what is pending and what applies it; nothing is changed."""
    app, _ = application(shop, migrate="check")
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    await app.unload()
    assert isinstance(caught.value.__cause__, MigrationsPendingError)
    assert "shop: 0001_first" in str(caught.value.__cause__)
    assert await tables(shop) == set()
    await shop.upgrade()
    app, _ = application(shop, migrate="check")
    async with app:
        pass


async def test_off_does_not_look(shop: Project) -> None:
    """Who migrates by other means starts on what is there."""
    app, told = application(shop, migrate="off", drift="ignore")
    async with app:
        assert await tables(shop) == {"guests__visit"}
    assert [event.topic for event in told] == ["database.tables_created", "database.drained"]


@pytest.mark.matrix(
    "M7",
    load="the database is at a revision that the code has not",
    result="starts with one warning, and is at it still",
)
async def test_old_code_starts_on_a_newer_database(shop: Project) -> None:
    """An old replica that restarts during a rolling update lives, with a warning."""
    await shop.upgrade()
    await shop.say("UPDATE shop__alembic_version SET version_num = '0002_newer'")
    app, told = application(shop)
    async with app:
        pass
    drifted = told[0].as_dict()
    assert drifted["topic"] == "database.drifted"
    assert "shop is at 0002_newer, which this code does not know" in drifted["differences"][0]


async def test_a_failing_migration_refuses_the_start(shop: Project) -> None:
    """Nothing of it is kept, the text says where and why, and a corrected one starts."""
    code = "def upgrade():\n    op.drop_table('no')"
    broken = shop.write("0002_broken", code, after="0001_first")
    app, told = application(shop)
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    await app.unload()
    assert isinstance(caught.value.__cause__, MigrationError)
    assert "migration 0002_broken of 'shop': OperationalError" in str(caught.value.__cause__)
    assert "nothing of it is kept" in str(caught.value.__cause__)
    assert "database.migration_failed" in [event.topic for event in told]
    broken.unlink()
    app, _ = application(shop)
    async with app:
        pass


async def test_a_history_that_is_not_shipped_refuses_the_start(shop: Project) -> None:
    """Else its tables would be created and never altered; the text says where it should be."""
    folder = shop.folder / "migrations"
    app, _ = application(shop)
    async with app:
        pass
    folder.rename(shop.folder / "elsewhere")
    (folder / "shop").mkdir(parents=True)  # an empty one counts as none
    app, _ = application(shop)
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    await app.unload()
    assert isinstance(caught.value.__cause__, MigrationError)
    said = str(caught.value.__cause__)
    assert "the migrations of 'shop': the database is at 0001_first" in said
    assert f"{folder / 'shop'} has no revision. Was a wheel built without that folder?" in said
    app, _ = application(shop, migrate="off")
    async with app:
        pass
    await shop.say("DROP TABLE shop__alembic_version")  # as the text says
    app, _ = application(shop)
    async with app:
        pass


async def test_two_heads_are_refused_before_anything_is_connected(shop: Project) -> None:
    """There need not even be a server."""
    shop.write("0002_a", "", after="0001_first")
    shop.write("0002_b", "", after="0001_first")
    app, _ = application(shop, url="postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(PluginFailedError, match=r"0002_a\.py and 0002_b\.py both follow"):
        await app.start()


async def test_tables_without_migrations_are_there_when_others_refer_to_them(
    server_url: URL, tmp_path: Path
) -> None:
    """A plugin that has migrations may stand on one that has none, on a new database too."""
    project = Project.at(tmp_path / "project", server_url)
    project.models(
        MODELS
        + """
class Guest(Base):
    __tablename__ = "people__guest"
    id: Mapped[int] = mapped_column(primary_key=True)

class Order(Base):
    __tablename__ = "shop__order"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest: Mapped[int] = mapped_column(ForeignKey("people__guest.id"))

class Bill(Base):
    __tablename__ = "bills__bill"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(ForeignKey("shop__order.id"))
"""
    )
    assert await project.revision("shop") is not None
    app, told = application(project)
    async with app:
        pass
    assert [event.as_dict().get("tables") for event in told] == [
        ("guests__visit", "people__guest"),
        None,
        None,
        ("bills__bill",),
        None,
    ]
    assert await project.revision("people") is not None  # what stands on it has to wait
    assert await project.revision("shop") is None


async def test_a_database_in_memory_is_migrated(shop: Project) -> None:
    """It is in the bot's own connection, so that is where it happens."""
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": shop.metadata})
    app = Application([plugin], config={"database": {"database": ":memory:"}})
    async with app:
        uow_factory = app.services["db_manager:uow_factory"]
        async with uow_factory() as uow:
            at = await uow.session.scalar(text("SELECT version_num FROM shop__alembic_version"))
            assert at == "0001_first"


async def test_a_start_looks_at_tables_that_come_and_go(
    tmp_path: Path, mariadb_database: URL
) -> None:
    """MariaDB describes none of them to a transaction that has read some other table (1684)."""
    shop = Project.at(tmp_path / "shop", mariadb_database)
    shop.models(MODELS)
    await shop.revision("shop")
    await shop.upgrade()

    async def come_and_go() -> None:
        engine = shop.engine()
        try:
            async with engine.connect() as connection:
                while True:
                    await connection.execute(text("CREATE TABLE guests__visit (id INT)"))
                    await connection.execute(text("DROP TABLE guests__visit"))
        finally:
            await engine.dispose()

    coming = asyncio.create_task(come_and_go())
    for _ in range(20):
        app, _told = application(shop, create_tables=False, drift="ignore")
        async with app:
            pass
    assert not coming.done()
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
