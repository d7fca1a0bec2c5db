"""A migration that fails or is killed in the third of three statements: M2."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from support.migrators import Migrators, migrators
from support.project import Project
from support.shop import shop_at
from support.stock_alembic import upgrade_alone

THREE = """
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    op.add_column("shop__item", sa.Column("m", sa.Integer))
    getattr(__import__("__main__"), "say", str)("third")
    op.execute("{third}")
"""
#: The same, the third outside of the transaction.
OUTSIDE = THREE.replace(
    "    getattr", "    with op.get_context().autocommit_block():\n        getattr"
).replace("    op.execute", "        op.execute")
FAILS = "UPDATE shop__nothing SET n = 8"
REPAIRED = """
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    op.execute("UPDATE shop__item SET n = 4 + 4")
"""
#: A third statement that does not end.
LONG = {
    "postgresql": "UPDATE shop__item SET n = 8 WHERE pg_sleep(600) IS NOT NULL",
    "mysql": "UPDATE shop__item SET n = 8 + SLEEP(600)",
    "sqlite": "UPDATE shop__item SET n = (WITH RECURSIVE c(x) AS"
    " (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c)",
}
#: Which connections execute it.
RUNNING = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'active' AND query LIKE 'UPDATE shop__item%'",
    "mysql": "SELECT id FROM information_schema.processlist"
    " WHERE db = database() AND info LIKE 'UPDATE shop__item%'",
}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}

Row = Callable[..., None]


@pytest.fixture(scope="module")
async def bots() -> AsyncIterator[Migrators]:
    """What runs the processes."""
    async with migrators() as running:
        yield running


async def columns(project: Project) -> list[str]:
    """Return the columns that the table has."""
    engine = project.engine()
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda sync: inspect(sync).get_columns("shop__item"))
    await engine.dispose()
    return [column["name"] for column in found]


async def break_off(bots: Migrators, project: Project, url: URL, how: str) -> None:
    """Let a bot start whose migration fails in its third statement, or is killed there."""
    backend = url.get_backend_name()
    third = FAILS if how == "fails" else LONG[backend]
    code = OUTSIDE if how == "outside" else THREE
    project.write("0002_three", code.format(third=third), after="0001_first")
    await bots.begin(url, project.folder)
    assert await bots.said() == "migrated shop 0001_first"
    assert await bots.said() == "third"
    if how != "fails":
        while backend in RUNNING and not await project.say(RUNNING[backend]):  # noqa: ASYNC110 -- the server's
            await asyncio.sleep(0.01)
        bots.kill()
    said = await bots.end()
    assert [line.partition(" ")[0] for line in said] == (["failed"] if how == "fails" else [])


async def assert_as_before(bots: Migrators, project: Project, url: URL) -> None:
    """Assert that nothing of it is left, and that repaired code applies."""
    assert await columns(project) == ["id"]
    said = await bots.start(url, project.folder)
    assert said == ["migrated shop 0002_three", "started"]
    assert await project.say("SELECT id, n FROM shop__item") == [(1, 8)]


async def assert_refused(bots: Migrators, project: Project, url: URL) -> None:
    """Assert that repaired code is refused by name, until somebody has undone what is there."""
    for _ in range(2):
        [said] = await bots.start(url, project.folder)
        assert "migration 0002_three of 'shop': it began at" in said
        assert "db-manager migrate stamp shop 0002_three" in said
        assert "db-manager migrate stamp shop 0001_first" in said
    backend = url.get_backend_name()
    for (number,) in await project.say(RUNNING[backend]):
        assert f"connection {number} of the server still works on it" in said
        await project.say(END[backend].format(number))
    await project.say("ALTER TABLE shop__item DROP COLUMN n, DROP COLUMN m")
    await project.move("stamp", "0001")
    await assert_as_before(bots, project, url)


async def break_off_and_repair(
    bots: Migrators, folder: Path, url: URL, how: str, *, marked: bool
) -> None:
    """Let a migration break off, and start repaired code."""
    project = shop_at(folder, url)
    (project.folder / "migrations" / "shop" / "0002_second.py").unlink()
    await break_off(bots, project, url, how)
    project.write("0002_three", REPAIRED, after="0001_first")
    await (assert_refused if marked else assert_as_before)(bots, project, url)
    await project.say("DROP TABLE shop__item")
    await project.say("DROP TABLE shop__alembic_version")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["fails", "killed"])
async def test_one_that_breaks_off(
    bots: Migrators, tmp_path: Path, url: URL, how: str, row: Row, *, full: bool
) -> None:
    """M2: in the third of three statements; then repaired code starts."""
    rounds = 5 if full else 1
    marked = url.get_backend_name() == "mysql"
    for number in range(rounds):
        await break_off_and_repair(bots, tmp_path / str(number), url, how, marked=marked)
    row(
        "M2",
        load=f"{url.drivername}: the third of three statements "
        f"{'fails' if how == 'fails' else 'is killed with SIGKILL'}, {rounds} ×",
        result="repaired code is refused by name until it is undone and stamped, and applies then"
        if marked
        else "nothing left, repaired code applies",
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("url", ["asyncpg", "psycopg", "mariadb"], indirect=True)
async def test_one_that_is_killed_outside_of_its_transaction(
    bots: Migrators, tmp_path: Path, url: URL, row: Row, *, full: bool
) -> None:
    """M2: what was committed before an `autocommit_block` is there; repaired code does not run."""
    rounds = 5 if full else 1
    for number in range(rounds):
        await break_off_and_repair(bots, tmp_path / str(number), url, "outside", marked=True)
    row(
        "M2",
        load=f"{url.drivername}: killed with SIGKILL in an autocommit_block, {rounds} ×",
        result="repaired code is refused by name until it is undone and stamped, and applies then",
    )


async def test_the_stock_driver_of_sqlite_leaves_half(
    bots: Migrators, tmp_path: Path, sqlite_database: URL
) -> None:
    """M2, the wrong way: Python's driver begins no transaction before DDL."""
    project = shop_at(tmp_path / "shop", sqlite_database)
    (project.folder / "migrations" / "shop" / "0002_second.py").unlink()
    project.write("0002_three", THREE.format(third=FAILS), after="0001_first")
    engine = create_async_engine(sqlite_database)
    folder = project.folder / "migrations" / "shop"
    async with engine.connect() as connection:
        with pytest.raises(OperationalError):
            await connection.run_sync(upgrade_alone, folder, "head")
    await engine.dispose()
    project.write("0002_three", REPAIRED, after="0001_first")
    with pytest.raises(AssertionError):
        await assert_as_before(bots, project, sqlite_database)
    [said] = await bots.start(sqlite_database, project.folder)
    assert said.startswith("failed")
