"""Many replicas that start at once on migrations all start: M1, and M10 behind PgBouncer."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import inspect, text
from sqlalchemy.engine import URL
from support.migrators import Migrators, migrators
from support.pgbouncer import PgBouncer
from support.project import Project

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_of
from db_manager.engine.create import create_engine

REPLICAS = 8
MODELS = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40), index=True)
    price: Mapped[int] = mapped_column(default=0, server_default="0")

class Visit(Base):
    __tablename__ = "guests__visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]

class Box(Base):
    __tablename__ = "boxes__box"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
REVISIONS = {
    "shop": {
        "0001_first": """
            def upgrade():
                op.create_table(
                    "shop__item", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("title", sa.String(40), nullable=False), if_not_exists=True,
                )
        """,
        "0002_prices": """
            def upgrade():
                op.add_column(
                    "shop__item", sa.Column("price", sa.Integer, nullable=False, server_default="0")
                )
                op.execute("INSERT INTO shop__item (id, title) VALUES (100, 'tea')")
                op.execute("UPDATE shop__item SET price = price + 7")
        """,
        "0003_index": """
            def upgrade():
                with op.get_context().autocommit_block():
                    getattr(__import__("__main__"), "in_block", int)()
                    op.create_index(
                        "ix_shop__item_title", "shop__item", ["title"], postgresql_concurrently=True
                    )
        """,
    },
    "guests": {
        "0001_first": """
            def upgrade():
                op.create_table(
                    "guests__visit", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("n", sa.Integer, nullable=False), if_not_exists=True,
                )
        """,
        "0002_count": """
            def upgrade():
                op.execute("UPDATE guests__visit SET n = n + 1")
        """,
    },
}
#: What `create_all` of an older version made, with rows.
BEFORE = (
    "CREATE TABLE shop__item (id INTEGER PRIMARY KEY, title VARCHAR(40) NOT NULL)",
    "CREATE TABLE guests__visit (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
    "INSERT INTO shop__item VALUES (1, 'tea'), (2, 'cake')",
    "INSERT INTO guests__visit VALUES (1, 5)",
)
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_shop__item_title'::regclass"
MIGRATED = {f"migrated {plugin} {name}" for plugin, names in REVISIONS.items() for name in names}

Row = Callable[..., None]


@pytest.fixture(scope="module")
async def replicas() -> AsyncIterator[Migrators]:
    """What runs the processes."""
    async with migrators() as running:
        yield running


def project_at(folder: Path, url: URL) -> Project:
    """Return a project with three plugins, two of them with migrations."""
    project = Project.at(folder, url)
    project.models(MODELS)
    for plugin, revisions in REVISIONS.items():
        before = None
        for name, code in revisions.items():
            project.write(name, code, plugin, after=before)
            before = name
    return project


async def check(said: list[str], project: Project, *, adopted: bool) -> None:
    """Every replica is well, each revision was applied and announced once, and the rows are right.

    Args:
        said: What the processes said.
        project: The project, on its server.
        adopted: There were tables with rows before.
    """
    counted = Counter(said)
    assert counted.pop("started", 0) == REPLICAS, said
    assert counted == dict.fromkeys(MIGRATED, 1)
    before = [(1, "tea", 7), (2, "cake", 7)] if adopted else []
    found = await project.say("SELECT id, title, price FROM shop__item ORDER BY id")
    assert found == [*before, (100, "tea", 7)]
    assert await project.say("SELECT id, n FROM guests__visit") == ([(1, 6)] if adopted else [])
    engine = project.engine()
    async with engine.connect() as connection:
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("shop__item"))
    await engine.dispose()
    assert [index["name"] for index in indexes] == ["ix_shop__item_title"]
    if engine.url.get_backend_name() == "postgresql":
        assert await project.say(IS_VALID) == [(True,)]


async def empty(project: Project) -> None:
    """Drop what a round before has made."""
    engine = project.engine()
    async with engine.begin() as connection:
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        for table in tables:
            await connection.exec_driver_sql(f"DROP TABLE {table}")
    await engine.dispose()


async def start_again_and_again(
    replicas: Migrators, project: Project, url: URL, rounds: int, **run: object
) -> None:
    """Start replicas on an empty database and on one with tables, and check each time."""
    for number in range(rounds):
        for adopted in (False, True):
            if url.get_backend_name() == "sqlite":  # a new file: that is where it races
                url = url.set(database=f"{project.folder}/{number}{adopted}.sqlite3")
                project = Project.on(project.folder, url)
            else:
                await empty(project)
            if adopted:
                await project.say(*BEFORE)
            said = await replicas.start(url, project.folder, count=REPLICAS, **run)
            await check(said, project, adopted=adopted)


@pytest.mark.timeout(1200)
async def test_all_replicas_start(
    replicas: Migrators, tmp_path: Path, url: URL, row: Row, *, full: bool
) -> None:
    """M1: eight processes on an empty database, and on tables of `create_all` with rows."""
    rounds = 10 if full else 1
    await start_again_and_again(replicas, project_at(tmp_path / "shop", url), url, rounds)
    row(
        "M1",
        load=f"{url.drivername}: {REPLICAS} processes start at once, {rounds} × on an empty "
        f"database and {rounds} × on tables with rows; one index CONCURRENTLY, two UPDATEs",
        result=f"{2 * rounds * REPLICAS} good starts, each of {len(MIGRATED)} revisions once",
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_all_replicas_start_behind_pgbouncer(
    replicas: Migrators,
    tmp_path: Path,
    postgres_database: URL,
    pgbouncer: PgBouncer,
    driver: str,
    row: Row,
    *,
    full: bool,
) -> None:
    """M10: the same in transaction mode, with two connections to the server for all of them."""
    rounds = 6 if full else 1
    url = pgbouncer.url(postgres_database).set(drivername=f"postgresql+{driver}")
    project = project_at(tmp_path / "shop", postgres_database)
    await start_again_and_again(replicas, project, url, rounds, keys={"pgbouncer": True})
    row(
        "M10",
        load=f"{driver}, PgBouncer with 2 connections: M1, {rounds} × each",
        result=f"{2 * rounds * REPLICAS} good starts, each of {len(MIGRATED)} revisions once",
    )


async def test_a_lock_of_the_session_keeps_nobody_out_behind_pgbouncer(
    postgres_database: URL, pgbouncer: PgBouncer
) -> None:
    """M10, the wrong way: another client gets the connection to the server, with its lock."""
    url = pgbouncer.url(postgres_database)
    where = SecretStr(url.render_as_string(hide_password=False))
    engines = [create_engine(DatabaseConfig(url=where, pgbouncer=True)) for _ in range(2)]
    ours = dialect_of(engines[0].dialect)
    async with engines[0].connect() as one, engines[1].connect() as other:
        assert await one.run_sync(ours.lock_schema)
        assert not await other.run_sync(ours.lock_schema)
        await one.rollback()
        await other.rollback()
        for each in (one, other):
            assert await each.scalar(text("SELECT pg_try_advisory_lock(7)"))
            await each.commit()
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("url", ["asyncpg", "mariadb"], indirect=True)
async def test_without_the_lock_replicas_fail(
    replicas: Migrators, tmp_path: Path, url: URL
) -> None:
    """M1, the wrong way: those that do not wait for each other are caught by the same check."""
    project = project_at(tmp_path / "shop", url)
    said = await replicas.start(url, project.folder, count=REPLICAS, way="without-lock")
    with pytest.raises(AssertionError):
        await check(said, project, adopted=False)
    assert any(line.startswith("failed") for line in said)


async def test_who_leaves_the_transaction_loses_the_lock(
    replicas: Migrators, tmp_path: Path, sqlite_database: URL
) -> None:
    """M1, the wrong way on SQLite: after Alembic's own `autocommit_block` all run one revision."""
    project = project_at(tmp_path / "shop", sqlite_database)
    said = await replicas.start(sqlite_database, project.folder, count=REPLICAS, way="leaves")
    with pytest.raises(AssertionError):
        await check(said, project, adopted=False)
    assert any(line.startswith("failed") for line in said)
