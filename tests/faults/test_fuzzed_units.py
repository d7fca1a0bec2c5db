"""Units of random contents, ended in random ways, tell the truth: U25."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import URL
from support.accounting import accounted
from support.fuzzing import Block, Fuzz, judge, kill_backends

from db_manager.database.open_unit import UnitState
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]

#: Units on each database, by each runner: in a usual run, and in the full one (a million in all).
SHORT = 1_200
FULL = {"asyncpg": 150_000, "psycopg": 100_000, "sqlite": 150_000, "mariadb": 100_000}
#: Nobody waits in vain here, and a slow machine must not be taken for a lie.
PATIENCE: Any = {"max_overflow": 0, "pool_timeout": 60, "exit_timeout": 60}


@pytest.fixture(params=["asyncpg", "psycopg", "sqlite", "mariadb"])
def driver(request: pytest.FixtureRequest) -> str:
    """Name of a driver."""
    return str(request.param)


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own."""
    kind = "postgres" if driver in {"asyncpg", "psycopg"} else driver
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found.set(drivername="postgresql+psycopg") if driver == "psycopg" else found


@pytest.mark.timeout(3600)
async def test_no_unit_lies(url: URL, driver: str, full: bool, row: Row) -> None:
    """U25: of all units none says something else of itself than its rows do."""
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 10**9))
    units = FULL[driver] if full else SHORT
    async with accounted(url, pool_size=8, **PATIENCE) as database:
        fuzz = Fuzz(database, seed)
        await fuzz.make_tables()
        await fuzz.run(units)
        assert fuzz.lies == []
        ended = (UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN)
        assert min(fuzz.states[state] for state in ended) > 0
    told = ", ".join(f"{count} {state}" for state, count in sorted(fuzz.states.items()))
    row("U25", load=f"{driver}: {units} random units", result=f"0 lies; {told}")


@pytest.mark.timeout(3600)
async def test_no_unit_lies_while_backends_die(
    postgres_database: URL, full: bool, row: Row
) -> None:
    """U25: also when somebody terminates their backends all the time."""
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 10**9))
    units = 25_000 if full else 600
    for driver in ("asyncpg", "psycopg"):
        url = postgres_database.set(drivername=f"postgresql+{driver}")
        async with accounted(url, pool_size=8, **PATIENCE) as database:
            fuzz = Fuzz(database, seed, harmed=True)
            with contextlib.suppress(Exception):  # the second driver finds them there
                await fuzz.make_tables()
            async with database.engine.connect() as connection:
                [[name]] = (await connection.exec_driver_sql("SHOW application_name")).all()
            over = asyncio.Event()
            killer = asyncio.create_task(
                kill_backends(postgres_database, str(name), random.Random(seed), over)
            )
            await fuzz.run(units)
            over.set()
            await killer
        assert fuzz.lies == []
        told = ", ".join(f"{count} {state}" for state, count in sorted(fuzz.states.items()))
        row("U25", load=f"{driver}: {units} random units, backends die", result=f"0 lies; {told}")


@pytest.mark.parametrize(
    ("state", "there", "lie"),
    [
        (UnitState.COMMITTED, set(), "committed"),
        (UnitState.COMMITTED, {1, 2}, "committed"),
        (UnitState.ROLLED_BACK, {1}, "rolled back"),
        (UnitState.OUTCOME_UNKNOWN, {1}, "unknown"),
        (UnitState.ACTIVE, set(), "not over"),
        (UnitState.NEW, {1}, "begun"),
        (UnitState.NEW, set(), "begun"),
    ],
)
async def test_a_lie_would_be_seen(
    sqlite_database: URL, state: UnitState, there: set[int], lie: str
) -> None:
    """U25, the wrong way: a state that does not fit the rows is a lie."""
    async with accounted(sqlite_database) as database:
        block = Block(1, UnitOfWork(database), random.Random(1))
        block.new_part()
        block.error, block.unit.state = ValueError(), state
        assert judge(block, there).startswith(lie)
