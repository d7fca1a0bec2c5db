"""The database in which migrations are built is gone afterwards, whatever happens."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.project import Project

from db_manager.config import DatabaseConfig
from db_manager.migrations.failure import MigrationError, ScratchError
from db_manager.migrations.revision.scratch import PREFIX, _say, scratch

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None] = mapped_column(String(9))

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id"))
"""
BROKEN = """
def upgrade():
    op.create_table("shop__more", sa.Column("id", sa.Integer))
    op.drop_table("shop__nothing")
"""
#: What a migration may leave besides tables.
POSTGRES_THINGS = """
def upgrade():
    op.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    op.execute("CREATE DOMAIN price AS numeric CHECK (value > 0)")
    op.execute("CREATE TYPE pair AS (a int, b int)")
    op.execute("CREATE TABLE shop__item (id serial PRIMARY KEY, kind varchar(9), mood mood)")
    op.execute("CREATE TABLE shop__old (id int) PARTITION BY RANGE (id)")
    op.execute("CREATE TABLE shop__old_1 PARTITION OF shop__old FOR VALUES FROM (1) TO (9)")
    op.execute("CREATE MATERIALIZED VIEW shop__all AS SELECT id FROM shop__item")
    op.execute("CREATE VIEW shop__few AS SELECT id FROM shop__all")
    op.execute("CREATE SEQUENCE shop__number")
    op.execute("CREATE FUNCTION shop__f(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    op.execute('CREATE PROCEDURE "shop__P"() LANGUAGE sql AS $$ $$')
"""


@pytest.fixture(params=["postgres", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, on each server."""
    url: URL = request.getfixturevalue(f"{request.param}_database")
    return url


@pytest.fixture
def project(tmp_path: Path, server_url: URL) -> Project:
    """A project with models, on each server."""
    project = Project.at(tmp_path / "project", server_url)
    project.models(MODEL)
    return project


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """Begins the names of this test's scratch databases: others use the server at the same time."""
    prefix = f"{PREFIX}{secrets.token_hex(8)}_"
    monkeypatch.setattr("db_manager.migrations.revision.scratch.PREFIX", prefix)
    return prefix


async def scratches(project: Project, prefix: str) -> list[object]:
    """Return the names on the server that begin with *prefix*."""
    names = (
        "SELECT schema_name FROM information_schema.schemata"
        if "mysql" in project.url
        else "SELECT datname FROM pg_database"
    )
    return [name for (name,) in await project.say(names) if str(name).startswith(prefix)]


async def test_nothing_is_left_of_it(project: Project, own: str) -> None:
    """Neither after a comparison, nor after a migration that failed in it."""
    assert await project.revision() is not None
    project.write("0002_broken", BROKEN, after="0001_first")
    with pytest.raises(MigrationError):
        await project.revision()
    assert await scratches(project, own) == []


@pytest.mark.parametrize("moment", ["made", "used"])
async def test_a_cancellation_leaves_nothing(
    project: Project, own: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when the database is just made nor while it is used, and not when it comes twice."""
    here = asyncio.Event()

    async def say_and_stay(engine: AsyncEngine, statement: str) -> None:
        await _say(engine, statement)
        if statement.startswith("CREATE"):
            here.set()
            await asyncio.Event().wait()

    async def use() -> None:
        async with scratch(project.config):
            here.set()
            await asyncio.Event().wait()

    if moment == "made":
        monkeypatch.setattr("db_manager.migrations.revision.scratch._say", say_and_stay)
    task = asyncio.create_task(use())
    await here.wait()
    assert len(await scratches(project, own)) == 1
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scratches(project, own) == []


@pytest.fixture
async def empty(server_url: URL, request: pytest.FixtureRequest) -> AsyncIterator[URL]:
    """URL of a second, empty database on the server."""
    if server_url.get_backend_name() == "postgresql":
        databases = request.getfixturevalue("databases")
        url = await databases.create()
        yield url
        await databases.drop(url)
    else:
        engine = create_async_engine(server_url, isolation_level="AUTOCOMMIT")
        name = f"{server_url.database}_empty"
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        yield server_url.set(database=name)
        async with engine.connect() as connection:
            await connection.execute(text(f"DROP DATABASE {name}"))
        await engine.dispose()


def said(url: URL) -> str:
    """Return *url* as it is written on a command line."""
    return url.render_as_string(hide_password=False)


async def test_one_that_is_given_is_emptied_again(project: Project, empty: URL) -> None:
    """Used twice it is as good as new, also after a migration that failed in it."""
    assert await project.revision(scratch=said(empty)) is not None
    assert await project.revision(scratch=said(empty)) is None
    project.write("0002_broken", BROKEN, after="0001_first")
    with pytest.raises(MigrationError):
        await project.revision(scratch=said(empty))
    there = Project.on(project.folder, empty)
    # A schema of PostgreSQL is in a database, one of MariaDB is a database.
    made = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('public', '{}')"
    assert await there.say(made.format(empty.database)) == []


async def test_whatever_a_migration_makes_is_dropped(
    postgres_database: URL, tmp_path: Path
) -> None:
    """Types, sequences, views and functions would be in the way of the next comparison."""
    project = Project.at(tmp_path / "project", postgres_database)
    project.models(MODEL)
    project.write("0001_first", POSTGRES_THINGS)
    for _ in range(2):
        assert await project.revision(scratch=said(postgres_database), write=False) is not None
    left = "SELECT count(*) FROM {} WHERE {} = 'public'::regnamespace"
    for catalogue, column in {"pg_class": "relname", "pg_type": "typ", "pg_proc": "pro"}.items():
        namespace = f"{column.removesuffix('name')}namespace"
        assert await project.say(left.format(catalogue, namespace)) == [(0,)]


async def test_one_that_is_not_empty_is_refused(project: Project) -> None:
    """Somebody's data may be in it: what is there is named and left alone."""
    await project.say("CREATE TABLE shop__item (id INTEGER)", "INSERT INTO shop__item VALUES (7)")
    with pytest.raises(ScratchError, match="not empty: it has shop__item, and all in it would be"):
        await project.revision(scratch=project.url)
    assert await project.say("SELECT id FROM shop__item") == [(7,)]


async def test_a_role_that_may_not_create_one_is_told(
    postgres_database: URL, tmp_path: Path
) -> None:
    """With what the administrator can do, and what everybody can."""
    admin = Project.at(tmp_path / "project", postgres_database)
    admin.models(MODEL)
    await admin.say("DROP ROLE IF EXISTS scratch_less", "CREATE ROLE scratch_less LOGIN")
    url = postgres_database.set(username="scratch_less")
    project = Project.on(admin.folder, url)
    project.metadata = admin.metadata
    with pytest.raises(ScratchError) as caught:
        await project.revision()
    assert "permission denied to create database" in str(caught.value)
    assert "ALTER ROLE scratch_less CREATEDB, or name an empty one" in str(caught.value)
    assert await project.revision(scratch="sqlite://") is not None
    await admin.say("DROP ROLE scratch_less")


async def test_the_password_is_that_of_the_url(sqlite_database: URL) -> None:
    """The server of a scratch database is not told the password of the bot's."""
    config = DatabaseConfig(url=SecretStr(said(sqlite_database)), password=SecretStr("canary"))
    async with scratch(config, "sqlite://") as beside:
        assert beside.password is None


async def test_a_url_that_cannot_be_read_is_told_as_the_option(sqlite_project: Project) -> None:
    """Not as the key of the file, which is right."""
    sqlite_project.models(MODEL)
    with pytest.raises(ValueError, match=r"--scratch: .*cannot be read; write driver://"):
        await sqlite_project.revision(scratch="nonsense")
