"""A start that migrates for long, or is cancelled in the middle of it: M9 and M15."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.forks import forked
from support.gate import WAITS, Gate
from support.programs import Program, local, running
from support.project import Project
from support.shop import SECOND, application, shop_at

from db_manager.dialects.mysql.mysql_migration import MySQLMigration
from db_manager.errors import DatabaseUnavailableError
from db_manager.migrations.failure import HalfWayError
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle import tasks
from lifecycle.application import Application
from lifecycle.errors import HookTimeoutError, PluginFailedError
from lifecycle.testing import BotApiServer

WAITING = f"""
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    {WAITS}
    op.execute("UPDATE shop__item SET n = 7")
"""
#: A statement that takes long, on each database.
LONG = {
    "postgresql": "SELECT pg_sleep(60)",
    "mysql": "DO SLEEP(60)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    " SELECT count(*) FROM n WHERE x < 0",
}
IN_IT = """
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    __import__("support.gate").gate.come()
    op.execute("{long}")
"""
#: What the server of a test's database works on.
SLEEPING = (
    "SELECT id FROM information_schema.processlist WHERE db = database() AND info LIKE 'DO SLEEP%'"
)

Row = Callable[..., None]


class Quick(DatabasePlugin):
    """A database whose start is given less time than its migration takes."""

    start_timeout = 0.3


@pytest.fixture
def shop(tmp_path: Path, url: URL) -> Project:
    """A project with two revisions, the second of which waits at a gate; on each database."""
    return shop_at(tmp_path / "shop", url, WAITING)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """The gate at which the second revision waits."""
    with Gate() as gate:
        yield gate


@asynccontextmanager
async def starting(app: Application, gate: Gate) -> AsyncIterator["asyncio.Task[None]"]:
    """Start a bot, up to the middle of its second revision; unload it after the block."""
    start = asyncio.create_task(app.start())
    reached = asyncio.create_task(gate.reached.wait())
    await asyncio.wait({start, reached}, return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    if start.done():
        await start
    try:
        yield start
    finally:
        await asyncio.gather(start, return_exceptions=True)
        await app.unload()


async def assert_refused(factory: UnitOfWorkFactory, reason: str) -> None:
    """Assert that units of every kind are refused at once."""
    for read_only in (False, True, "snapshot", "replica"):
        with pytest.raises(DatabaseUnavailableError, match=reason):
            async with asyncio.timeout(5), factory(read_only=read_only) as uow:
                await uow.session.execute(text("SELECT 1"))


# -- M15 ----------------------------------------------------------------------------------


async def test_a_long_migration_is_not_cut(shop: Project, url: URL, gate: Gate, row: Row) -> None:
    """M15: the deadline of the start grows; meanwhile the bot is starting and refuses units."""
    app = application(shop, base=Quick, migrate_timeout=60)
    async with starting(app, gate) as start:
        await asyncio.sleep(2 * Quick.start_timeout)
        health = await app.health()
        assert health["db_manager"].error == "is starting"
        factory = app.services["db_manager:uow_factory"]
        await assert_refused(factory, "tables are being prepared")
        gate.opened.set()
        await start
        async with factory(read_only=True) as uow:
            assert await uow.session.scalar(text("SELECT n FROM shop__item")) == 7
    row(
        "M15",
        load=f"{url.drivername}: a migration twice as long as the deadline of a start",
        result="not cut; health says starting, units of every kind are refused",
    )


async def test_a_deadline_that_does_not_grow_would_cut_it(
    tmp_path: Path, sqlite_database: URL, gate: Gate
) -> None:
    """M15, the wrong way: the start fails, and its migration with it."""
    assert not gate.opened.is_set()
    app = application(shop_at(tmp_path / "shop", sqlite_database, WAITING), base=Quick)
    await app.load()
    app.plugins["db_manager"].plugin.start_timeout = Quick.start_timeout
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    await app.unload()
    assert isinstance(caught.value.__cause__, HookTimeoutError)


# -- M9 -----------------------------------------------------------------------------------


async def assert_as_before(project: Project, url: URL) -> str:
    """Assert that nobody has the lock, and that the migration can be done; return what was left."""
    project.write("0002_second", SECOND, after="0001_first")
    async with asyncio.timeout(30):
        try:
            await project.upgrade()
            left = "nothing left"
        except HalfWayError:
            assert url.get_backend_name() == "mysql"
            await project.say("ALTER TABLE shop__item DROP COLUMN n")
            await project.move("stamp", "0001")
            await project.upgrade()
            left = "refused by name, until it was undone and stamped"
    assert await project.say("SELECT n FROM shop__item") == [(8,)]
    return left


@pytest.mark.parametrize("where", ["between two statements", "in a statement"])
async def test_a_cancelled_start_ends_at_once(
    shop: Project,
    url: URL,
    gate: Gate,
    where: str,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
    *,
    full: bool,
) -> None:
    """M9: no hook is abandoned, the lock is free, and what was begun is taken back or marked."""
    monkeypatch.setattr(tasks, "PATIENCE", 10.0)
    if where == "in a statement":
        code = IN_IT.format(long=LONG[url.get_backend_name()])
        shop.write("0002_second", code, after="0001_first")
    app = application(shop)
    async with starting(app, gate) as start:
        begun = time.perf_counter()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        seconds = time.perf_counter() - begun
    assert tasks.abandoned() == []
    # psycopg waits for 5 s when the server has not got the statement yet that it is to cancel.
    assert seconds <= (1 if full else 10)
    left = await assert_as_before(shop, url)
    row(
        "M9",
        load=f"{url.drivername}: a start is cancelled {where} of a migration",
        result=f"ended after {seconds:.2f} s; {left}",
    )


@pytest.mark.parametrize("ends", [True, False])
async def test_a_statement_that_nobody_ends_goes_on(
    tmp_path: Path,
    mariadb_database: URL,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ends: bool,
) -> None:
    """M9, the wrong way: who only leaves MariaDB lets it work on for whoever is gone."""
    monkeypatch.setattr(tasks, "PATIENCE", 10.0)
    if not ends:
        monkeypatch.setattr(MySQLMigration, "_end_at_server", lambda _: None)
    project = shop_at(tmp_path / "shop", mariadb_database, IN_IT.format(long=LONG["mysql"]))
    async with starting(application(project), gate) as start:
        while not await project.say(SLEEPING):  # noqa: ASYNC110 -- the server's
            await asyncio.sleep(0.01)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert len(await project.say(SLEEPING)) == (0 if ends else 1)


def telling(
    file: Path, project: Project, url: URL, api: BotApiServer
) -> AbstractAsyncContextManager[Program]:
    """Run a bot on the models and migrations of *project*."""
    variables = local(api)
    tests = str(Path(__file__).parents[1])  # for tests/support
    variables["PYTHONPATH"] = os.pathsep.join((variables["PYTHONPATH"], tests))
    return running(
        *forked("-W", "error", file),
        cwd=project.folder,
        BOT_TOKEN=api.token,
        DATABASE__URL=url.render_as_string(hide_password=False),
        PROJECT=str(project.folder),
        **variables,
    )


async def test_a_told_bot_ends_in_the_middle_of_a_migration(
    tmp_path: Path, url: URL, row: Row
) -> None:
    """M9: SIGTERM to a process during its start, inside of a migration."""
    project = shop_at(tmp_path / "shop", url, WAITING)
    code = IN_IT.format(long=LONG[url.get_backend_name()])
    project.write("0002_second", code, after="0001_first")
    file = Path(__file__).parent / "migrating_bot.py"
    async with BotApiServer() as api, telling(file, project, url, api) as bot:
        await bot.says("in the middle")
        begun = time.perf_counter()
        bot.terminate()
        await bot.ends()
        seconds = time.perf_counter() - begun
    left = await assert_as_before(project, url)
    row(
        "M9",
        load=f"{url.drivername}: SIGTERM in a statement of a migration",
        result=f"ended well after {seconds:.2f} s; {left}",
    )


async def test_a_start_that_waits_for_the_lock_can_be_cancelled(
    shop: Project, url: URL, gate: Gate, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M9: one that waits for another replica's migration ends, and that one goes on."""
    monkeypatch.setattr(tasks, "PATIENCE", 10.0)
    migrating = asyncio.create_task(shop.upgrade())
    await gate.reached.wait()
    app = application(shop)
    waiting = asyncio.create_task(app.start())
    await asyncio.sleep(0.5)
    assert not waiting.done()
    begun = time.perf_counter()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    seconds = time.perf_counter() - begun
    await app.unload()
    assert tasks.abandoned() == []
    gate.opened.set()
    assert await migrating == ["0001_first", "0002_second"]
    row(
        "M9",
        load=f"{url.drivername}: a start is cancelled that waits for another one's migration",
        result=f"ended after {seconds:.2f} s; the other one went on",
    )
