"""Jobs of other libraries, queued by units: examples/recipes/jobs_….py."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from support.programs import PATIENCE, Run
from support.tables import read

from lifecycle.testing import BotApiServer

#: A unit that changes an order waits for a lock, which the test has.
HELD = (
    "SELECT pg_advisory_lock(1)",
    """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock(1);
            RETURN new;
        END $$
    """,
    "CREATE TRIGGER wait BEFORE UPDATE ON orders__order FOR EACH ROW EXECUTE FUNCTION wait()",
)
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"
ORDERS = "SELECT good FROM orders__order WHERE is_ready ORDER BY good"


@dataclass(frozen=True)
class Recipe:
    """One of the recipes."""

    name: str
    #: The fixture of its database.
    database: str
    #: The driver of its URL, where it is not the usual one.
    driver: str
    #: Counts the jobs that it has ever queued.
    jobs: str
    #: Lets an hour pass since the last sign of life of who does a job.
    aging: str = "SELECT 1"


RECIPES = [
    Recipe("dbos", "sqlite_database", "", "SELECT count(*) FROM workflow_status"),
    Recipe("dbos", "postgres_database", "", "SELECT count(*) FROM dbos.workflow_status"),
    Recipe(
        *("pgqueuer", "postgres_database", ""),
        "SELECT count(*) FROM pgqueuer_log WHERE status = 'queued'",
        "UPDATE pgqueuer SET heartbeat = now() - interval '1 hour'",
    ),
    Recipe(
        *("procrastinate", "postgres_database", "postgresql+psycopg"),
        "SELECT count(*) FROM procrastinate_jobs",
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'",
    ),
]


#: On SQLite nobody can keep a job from changing its order, and let the rest go on.
ON_A_SERVER = RECIPES[1:]


def recipes(which: list[Recipe]) -> pytest.MarkDecorator:
    """Run a test with each of these that can run here."""
    return pytest.mark.parametrize(
        "recipe",
        [
            pytest.param(
                recipe,
                id=f"{recipe.name}-{recipe.database.partition('_')[0]}",
                marks=pytest.mark.skipif(bool(why := _missing(recipe)), reason=f"not run: {why}"),
            )
            for recipe in which
        ],
    )


def _missing(recipe: Recipe) -> str:
    """Return what a recipe needs that is not here."""
    if find_spec(recipe.name) is None:
        return f"{recipe.name} does not agree with the oldest packages"
    if recipe.database == "sqlite_database" and sys.version_info >= (3, 12):
        # On Python before 3.12, DBOS asks SQLite for no parts of a second.
        return "DBOS needs SQLite 3.42 here" if sqlite3.sqlite_version_info < (3, 42) else ""
    return ""


@pytest.fixture
def database_url(recipe: Recipe, request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own."""
    url: URL = request.getfixturevalue(recipe.database)
    return url.set(drivername=recipe.driver) if recipe.driver else url


@recipes(RECIPES)
async def test_a_job_is_a_part_of_the_unit_that_asks_for_it(
    run: Run, recipe: Recipe, database_url: URL
) -> None:
    """It is done after the commit; of an order that was refused, no job is left."""
    async with BotApiServer() as telegram, run(f"jobs_{recipe.name}.py", telegram) as bot:
        await bot.says("Run polling")
        ada = telegram.user(id=7, name="Ada")
        for said, *answers in (
            ("/order tea", "We make tea.", "Your tea is ready."),
            ("/order tea", "You have ordered tea already."),
            ("/order cake", "We make cake.", "Your cake is ready."),
        ):
            await ada.say(said)
            assert [(await ada.reply(PATIENCE)).text for _ in answers] == answers
        bot.terminate()
        await bot.ends()
        assert not ada.unread
    assert await read(database_url, ORDERS) == ["cake", "tea"]
    assert await read(database_url, recipe.jobs) == [2]


@asynccontextmanager
async def told(database: URL, *statements: str) -> AsyncIterator[None]:
    """Execute *statements* on one connection, which stays open during the block."""
    engine = create_async_engine(database, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
        yield


async def one_waits(database: URL) -> None:
    """Wait until a job waits."""
    async with asyncio.timeout(PATIENCE):
        waiting = await read(database, WAITING)
        while not waiting:
            await asyncio.sleep(0.05)
            waiting = await read(database, WAITING)


@recipes(ON_A_SERVER)
async def test_a_job_at_work_when_the_bot_is_stopped_is_done(
    run: Run, recipe: Recipe, database_url: URL
) -> None:
    """The stop waits for it, and what it says is still sent."""
    async with BotApiServer() as telegram, run(f"jobs_{recipe.name}.py", telegram) as bot:
        ada = telegram.user(id=7, name="Ada")
        await bot.says("Run polling")
        async with told(database_url, *HELD):
            await ada.say("/order tea")
            assert (await ada.reply(PATIENCE)).text == "We make tea."
            await one_waits(database_url)
            bot.terminate()
            await bot.says("Polling stopped for")
            assert await read(database_url, ORDERS) == []
        assert (await ada.reply(PATIENCE)).text == "Your tea is ready."
        await bot.ends()
    assert await read(database_url, ORDERS) == ["tea"]


@recipes(ON_A_SERVER)
async def test_a_job_whose_process_died_is_done_after_all(
    run: Run, recipe: Recipe, database_url: URL
) -> None:
    """By the next process, and once."""
    async with BotApiServer() as telegram:
        ada = telegram.user(id=7, name="Ada")
        async with run(f"jobs_{recipe.name}.py", telegram) as bot:
            await bot.says("Run polling")
            async with told(database_url, *HELD):
                await ada.say("/order tea")
                assert (await ada.reply(PATIENCE)).text == "We make tea."
                await one_waits(database_url)
                await bot.kill()
        async with (
            told(database_url, recipe.aging),
            run(f"jobs_{recipe.name}.py", telegram) as bot,
        ):
            assert (await ada.reply(PATIENCE)).text == "Your tea is ready."
            bot.terminate()
            await bot.ends()
        assert not ada.unread
    assert await read(database_url, ORDERS) == ["tea"]
