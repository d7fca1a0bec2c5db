"""A start on a database that is not as the models are: refused, told, or not looked at."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres import PostgresServer

from db_manager.drift.difference import SchemaDriftError
from db_manager.errors import DatabaseUnavailableError
from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application
from lifecycle.errors import PluginFailedError
from observability.testing import EventRecorder

TABLES = MetaData()
Table(
    "start__thing",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("word", String(20)),
)
AS_IT_SHOULD_BE = "CREATE TABLE start__thing (id INTEGER PRIMARY KEY, word VARCHAR(20))"
WITHOUT_A_COLUMN = "CREATE TABLE start__thing (id INTEGER PRIMARY KEY)"
OF_ANOTHER_TYPE = "CREATE TABLE start__thing (id INTEGER PRIMARY KEY, word INTEGER)"


class Things(DatabasePlugin):
    """A database with one table."""

    name = "things"
    metadata = TABLES


def make_app(url: URL, **keys: Any) -> Application:
    """Return an application with that database alone."""
    section = {"url": url.render_as_string(hide_password=False), **keys}
    return Application([Things], config={"app": {"journal": "memory"}, "things": section})


async def execute(url: URL, sql: str) -> None:
    """Execute a statement, as a migration does."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(sql))
    await engine.dispose()


async def test_a_missing_column_stops_the_start(database_url: URL) -> None:
    """Before the first INSERT fails, the start says what is missing and what to do."""
    await execute(database_url, WITHOUT_A_COLUMN)
    app = make_app(database_url)
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    assert isinstance(caught.value.__cause__, SchemaDriftError)
    assert str(caught.value.__cause__) == (
        "the database is not as the models are: start__thing has no column word. Run your "
        "migrations, or see `db-manager check` for the statements; [things] drift = 'warn' "
        "starts anyway"
    )
    await execute(database_url, "ALTER TABLE start__thing ADD COLUMN word VARCHAR(20)")
    async with app:
        assert (await app.health())["things"].healthy


async def test_a_missing_table_stops_the_start_when_others_create_it(database_url: URL) -> None:
    """With `create_tables = false` the migrations have not run; by default it is created."""
    app = make_app(database_url, create_tables=False)
    with pytest.raises(PluginFailedError, match="there is no table start__thing"):
        await app.start()
    async with make_app(database_url):
        pass
    async with app:
        pass


@pytest.mark.parametrize(
    ("made", "keys", "told"),
    [
        (AS_IT_SHOULD_BE, {}, ()),
        (
            OF_ANOTHER_TYPE,
            {},
            ("start__thing.word is INTEGER, in the model VARCHAR(20)",),
        ),
        (WITHOUT_A_COLUMN, {"drift": "warn"}, ("start__thing has no column word",)),
        (
            "SELECT 1",
            {"drift": "warn", "create_tables": False},
            ("there is no table start__thing",),
        ),
        (WITHOUT_A_COLUMN, {"drift": "ignore"}, ()),
    ],
    ids=["none", "type", "warned", "no table", "ignored"],
)
async def test_what_does_not_stop_the_start_is_told(
    database_url: URL, made: str, keys: dict[str, Any], told: tuple[str, ...]
) -> None:
    """The event says of which database, and each difference in a line."""
    await execute(database_url, made)
    app = make_app(database_url, **keys)
    with EventRecorder(app.bus) as events:
        async with app:
            assert not app.plugins["things"].is_degraded
    if told:
        event = events.assert_event("database.drifted", database="things")
        assert event.as_dict()["differences"] == told
    else:
        events.assert_none("database.drifted")


async def test_a_database_that_comes_late_is_looked_at_when_it_comes() -> None:
    """Until its migrations have run units fail and say why; then the plugin recovers."""
    with PostgresServer() as server:
        await asyncio.to_thread(server.stop)
        app = make_app(server.url(), create_tables=False)
        with EventRecorder(app.bus) as events:
            async with app:
                await asyncio.to_thread(server.start)
                while "there is no table start__thing" not in await refusal(app):
                    events.assert_none("plugin.recovered")
                await execute(server.url(), AS_IT_SHOULD_BE)
                await events.wait_for("plugin.recovered", timeout=20)
                async with app.services["things:uow_factory"]() as uow:
                    await uow.session.execute(text("SELECT word FROM start__thing"))


async def refusal(app: Application) -> str:
    """Return why a unit gets no connection."""
    await app.health()
    with pytest.raises(DatabaseUnavailableError) as caught:
        async with app.services["things:uow_factory"]() as uow:
            await uow.session.execute(text("SELECT 1"))
    return str(caught.value)
