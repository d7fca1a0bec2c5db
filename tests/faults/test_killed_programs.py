"""A program that is killed with SIGKILL loses nothing that it had acknowledged: B2."""

import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.lives import Program, lives

from db_manager.config import DatabaseConfig
from db_manager.engine.create import create_engine
from db_manager.unit.uow import UnitOfWork

ACCOUNTS, TASKS, START_BALANCE = 20, 8, 1000
#: Seconds a start may take: the row's criterion.
START_LIMIT = 2.0


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    """Yield the program; it ends with the test."""
    async with lives(Path(__file__).parent / "transferring.py") as program:
        yield program


async def kill_again_and_again(
    program: Program, url: str, journal: Path, kills: int
) -> tuple[set[int], list[float], int]:
    """Return the acknowledged keys, the seconds of each start, and the reported crashes."""
    acknowledged: set[int] = set()
    starts: list[float] = []
    crashes = 0
    for number in range(kills):
        await program.begin(url, str(journal), str((number + 1) * 1_000_000))
        begun = time.perf_counter()
        line = await program.read()
        if line.startswith("crashed"):
            crashes += 1
            line = await program.read()
        assert line == "ready", line
        starts.append(time.perf_counter() - begun)
        for _ in range(random.randint(0, 40)):
            acknowledged.add(int(await program.read()))
        acknowledged.update(map(int, await program.kill()))
    return acknowledged, starts, crashes


async def check(
    program: Program, url: URL, journal: Path, kills: int, row: Callable[..., None]
) -> None:
    """Kill the program *kills* times and compare what it was told with what is there."""
    text_url = url.render_as_string(hide_password=False)
    engine = create_engine(DatabaseConfig.model_validate({"url": text_url}))
    async with UnitOfWork(engine) as uow:
        await uow.connection.execute(text("CREATE TABLE account (id int PRIMARY KEY, balance int)"))
        await uow.connection.execute(text("CREATE TABLE transfer (key int PRIMARY KEY)"))
        accounts = [{"id": number, "balance": START_BALANCE} for number in range(ACCOUNTS)]
        await uow.connection.execute(text("INSERT INTO account VALUES (:id, :balance)"), accounts)
    acknowledged, starts, crashes = await kill_again_and_again(program, text_url, journal, kills)
    async with UnitOfWork(engine) as uow:
        rows = set((await uow.session.scalars(text("SELECT key FROM transfer"))).all())
        total = await uow.session.scalar(text("SELECT sum(balance) FROM account"))
    await engine.dispose()
    assert total == ACCOUNTS * START_BALANCE
    assert acknowledged <= rows
    assert len(rows - acknowledged) <= TASKS * kills  # committed, and killed before it could tell
    assert max(starts) <= START_LIMIT
    assert crashes == kills - 1  # every start but the first reports the death before it
    row(
        "B2",
        load=f"{url.get_backend_name()}: {kills} x SIGKILL under transfers of {TASKS} tasks",
        result=f"{len(acknowledged)} acknowledged, all there, {len(rows - acknowledged)} more; "
        f"sum exact; slowest start {max(starts):.2f} s (imports made before)",
    )


async def test_transfers_survive_on_postgresql(
    program: Program, postgres_database: URL, tmp_path: Path, full: bool, row: Callable[..., None]
) -> None:
    """B2: after SIGKILL the sum is exact and every acknowledged transfer is in PostgreSQL."""
    await check(program, postgres_database, tmp_path / "journal", 200 if full else 3, row)


async def test_transfers_survive_on_sqlite(
    program: Program, sqlite_database: URL, tmp_path: Path, full: bool, row: Callable[..., None]
) -> None:
    """B2: after SIGKILL the sum is exact and every acknowledged transfer is in the SQLite file."""
    await check(program, sqlite_database, tmp_path / "journal", 200 if full else 3, row)
