"""A sandbox: code under test commits for real, and nothing of it is left after the test."""

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import connected

from db_manager.base import Base
from db_manager.errors import ConfigError
from db_manager.plugin import DatabasePlugin
from db_manager.testing import Databases, Sandbox
from lifecycle.application import Application
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.machine import State
from lifecycle.plugins.plugin import Plugin
from observability.testing import EventRecorder


class Shell(Base):
    """Something to collect."""

    __tablename__ = "sandy__shell"

    id: Mapped[int] = mapped_column(primary_key=True)


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


postgres_only = pytest.mark.parametrize("sandbox_url", ["postgres"], indirect=True)
sqlite_only = pytest.mark.parametrize("sandbox_url", ["sqlite"], indirect=True)
COUNT = select(func.count()).select_from(Shell)


async def collect(sandbox: Sandbox) -> None:
    """Add a shell in a unit, as code under test does."""
    async with sandbox.uow_factory() as uow:
        uow.session.add(Shell())


async def exists(url: URL) -> bool:
    """Return whether there is a database at *url*, asked past everything under test."""
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").parent.exists()
    async with connected(url.set(database="postgres")) as admin:
        sql = "SELECT count(*) FROM pg_database WHERE datname = $1"
        return bool(await admin.fetchval(sql, url.database))


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_begins_with_empty_tables(sandbox: Sandbox, turn: int) -> None:
    """The row that one turn commits is not there in the other one; the table is."""
    async with sandbox.uow_factory() as uow:
        assert await uow.session.scalar(COUNT) == 0, turn
        uow.session.add(Shell())


async def test_a_commit_is_seen_by_strangers(sandbox: Sandbox) -> None:
    """What a unit commits is there for a program that knows nothing of the sandbox."""
    await collect(sandbox)
    if sandbox.url.get_backend_name() == "sqlite":
        with sqlite3.connect(sandbox.url.database or "") as stranger:
            assert stranger.execute("SELECT count(*) FROM sandy__shell").fetchone() == (1,)
        stranger.close()
    else:
        async with connected(sandbox.url) as admin:
            assert await admin.fetchval("SELECT count(*) FROM sandy__shell") == 1


async def test_callbacks_run(sandbox: Sandbox, events: EventRecorder) -> None:
    """`after_commit` runs because the commit is one, and may open a unit of its own."""
    async with sandbox.uow_factory() as uow:
        uow.session.add(Shell())
        uow.after_commit(lambda: collect(sandbox))
    events.assert_sequence("uow.commit", "uow.close", "uow.begin", "uow.commit", "uow.close")
    async with sandbox.uow_factory() as uow:
        assert await uow.session.scalar(COUNT) == 2


@pytest.mark.parametrize("end", ["well", "error", "cancelled"])
async def test_nothing_is_left(databases: Databases, end: str) -> None:
    """The database is dropped when the test passed, failed or was cancelled, with units open."""
    used: list[URL] = []

    async def block() -> None:
        async with Sandbox.open(databases) as sandbox:
            used.append(sandbox.url)
            app = await sandbox.start()
            await collect(sandbox)
            if end == "well":
                return
            async with app.services["db_manager:uow_factory"]() as uow:
                await uow.session.execute(COUNT)
                if end == "error":
                    raise LookupError
                asyncio.current_task().cancel()  # type: ignore[union-attr]  # it runs in one
                await asyncio.sleep(60)

    (result,) = await asyncio.gather(asyncio.create_task(block()), return_exceptions=True)
    expected = {"well": type(None), "error": LookupError, "cancelled": asyncio.CancelledError}
    assert type(result) is expected[end]
    assert not await exists(used[0])


async def test_an_application_that_stops_badly_fails_the_test(databases: Databases) -> None:
    """Its errors come out of the sandbox, whose database is dropped nevertheless."""

    class Stubborn(Plugin):
        name = "stubborn"

        async def stop(self, context: PluginContext) -> None:
            """Refuse."""
            raise LookupError(context.name)

    with pytest.raises(ExceptionGroup) as caught:
        async with Sandbox.open(databases) as sandbox:
            await sandbox.start(Stubborn)
    assert caught.group_contains(PluginFailedError, match="stubborn")
    assert not await exists(sandbox.url)


async def test_a_model_that_comes_later_has_its_table(databases: Databases) -> None:
    """A test module that is imported after the first test brings its tables along."""
    await databases.drop(await databases.create())

    class Late(Base):
        __tablename__ = "sandy__late"
        id: Mapped[int] = mapped_column(primary_key=True)

    try:
        async with Sandbox.open(databases) as sandbox, sandbox.uow_factory() as uow:
            uow.session.add(Late())
    finally:
        Base.metadata.remove(Base.metadata.tables["sandy__late"])


async def test_the_last_of_a_run_takes_everything_away(sandbox_url: str | URL) -> None:
    """`close` drops the template, and a database that nobody dropped."""
    databases = Databases(sandbox_url)
    url = await databases.create()
    template = url.set(database=re.sub(r"_2(?=/|$)", "_1", url.database or ""))
    assert await exists(url)
    assert await exists(template)
    await databases.close()
    assert not await exists(url)
    assert not await exists(template)


@postgres_only
def test_test_runs_at_the_same_time_do_not_meet(sandbox_url: URL) -> None:
    """Workers with event loops of their own get databases of their own from one server."""

    async def worker() -> list[URL]:
        databases = Databases(sandbox_url)
        made = []
        for _ in range(3):
            made.append(await databases.create())
            engine = create_async_engine(made[-1])
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO sandy__shell VALUES (1)"))
            await engine.dispose()
        await databases.close()
        return made

    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(asyncio.run, worker()) for _ in range(4)]
    assert len({url for run in runs for url in run.result()}) == 12


async def test_the_environment_leads_into_the_sandbox(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads its own configuration works in the sandbox, not where that says."""
    precious = tmp_path / "precious.sqlite3"
    config = tmp_path / "config.toml"
    config.write_text(
        '[app]\nplugins = ["db_manager"]\njournal = "memory"\n'
        f'[database]\ndatabase = "{precious}"\npool_size = 2\n'
    )
    monkeypatch.setenv("DATABASE__URL", f"sqlite+aiosqlite:///{precious}")
    monkeypatch.setenv("DATABASE__PASSWORD_FILE", str(tmp_path / "absent"))
    async with Sandbox.open(databases) as sandbox:
        async with Application.from_config(config) as app:
            engine = app.services["db_manager:engine"]
            async with app.services["db_manager:uow_factory"]() as uow:
                uow.session.add(Shell())
        assert engine.url.database == sandbox.url.database
        assert engine.sync_engine.pool.size() == 2
        async with sandbox.uow_factory() as uow:
            assert await uow.session.scalar(COUNT) == 1
    assert os.environ["DATABASE__URL"].endswith("precious.sqlite3")
    assert "DATABASE__PASSWORD_FILE" in os.environ
    assert not precious.exists()


@sqlite_only
async def test_an_application_from_a_file_leaves_no_journal(
    sandbox: Sandbox, events: EventRecorder, tmp_path: Path
) -> None:
    """`application(config=...)` has the plugins of the file; only its journal is in memory."""
    (tmp_path / "beach.py").write_text(
        "from lifecycle import Plugin\nclass Beach(Plugin):\n    name = 'beach'\n"
    )
    (tmp_path / "config.toml").write_text(
        '[app]\nplugins = ["beach"]\njournal = "journal.sqlite3"\n[database]\npool_size = 3\n'
    )
    app = await sandbox.start(config=tmp_path / "config.toml")
    assert {name: each.state for name, each in app.plugins.items()} == {
        "beach": State.STARTED,
        "db_manager": State.STARTED,
    }
    assert app.services["db_manager:engine"].sync_engine.pool.size() == 3
    assert not (tmp_path / "journal.sqlite3").exists()
    events.assert_event("plugin.started", plugin="beach")
    other = sandbox.application(DatabasePlugin, config={"database": {"pool_size": 4}})
    assert list(other.plugins) == ["db_manager"]
    assert other.plugins["db_manager"].config.pool_size == 4


@postgres_only
async def test_a_role_that_may_not_create_is_told(sandbox_url: URL) -> None:
    """The error names the role and what to do, not the password."""
    async with connected(sandbox_url) as admin:
        await admin.execute("CREATE ROLE meek LOGIN PASSWORD 'canary'")
    try:
        with pytest.raises(ConfigError, match=r"'meek' may not create databases.*CREATEDB") as it:
            await Databases(sandbox_url.set(username="meek", password="canary")).create()
        assert "canary" not in str(it.value)
    finally:
        async with connected(sandbox_url) as admin:
            await admin.execute("DROP ROLE meek")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "cannot be read; write driver://"),
        ("mysql+asyncmy://root@localhost/x", "a sandbox needs PostgreSQL or SQLite, not 'mysql'"),
    ],
)
def test_a_wrong_place_is_refused(url: str, message: str) -> None:
    """The setting is checked before anything is made."""
    with pytest.raises(ConfigError, match=f"^sandbox_url: {message}"):
        Databases(url)


async def test_a_server_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    """The error says where nobody answered, without the password."""
    url = f"postgresql://me:canary@127.0.0.1:{unused_tcp_port}/postgres"
    with pytest.raises(ConfigError, match=f"127.0.0.1:{unused_tcp_port}/postgres: Conn") as caught:
        await Databases(url).create()
    assert "canary" not in str(caught.value)


@sqlite_only
async def test_another_event_loop_is_refused(sandbox: Sandbox) -> None:
    """Loops that do not fit are said at once, with the setting, instead of a hang at the end."""

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match=r"another event loop.*asyncio_default_fixture"):
            sandbox.application()
        with pytest.raises(RuntimeError, match="another event loop"):
            _ = sandbox.engine

    await asyncio.to_thread(asyncio.run, elsewhere())
