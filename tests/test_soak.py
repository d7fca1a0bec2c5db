"""The soak in short: what a process holds does not grow, no unit lies, and a leak would be seen."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from soak.flatness import Sample, judge
from soak.report import figures, section, write
from soak.soaking import Soak, opened
from sqlalchemy.engine import URL
from support.fuzzing import Block
from support.postgres import Databases, PostgresServer

from db_manager.database.open_unit import UnitState

#: More than the greenlets that a database keeps, so that the first round makes them all.
TASKS = 150

#: How much more objects there may be in the end of a run of seconds, of the some 6,000 that are not
#: passed by: timers of connections that are gone wait for their time.
HEAP = 0.25

FLAT = Sample(10**8, 90, 17, 1, 400, 10**5, 64, 0, 0)


@pytest.fixture(autouse=True)
def no_logging() -> Iterator[None]:
    """Log nothing: pytest keeps each record, and with its traceback all that a unit had."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def soak_shortly(server: PostgresServer, sqlite: URL, **databases: URL) -> Soak:
    """Run six short rounds."""
    async with opened({**databases, "aiosqlite": sqlite}) as opened_ones:
        soak = Soak(opened_ones, server, seed=1, tasks=TASKS)
        await soak.run(rounds=6)
    return soak


async def test_a_short_soak_is_flat_and_is_told(sqlite_database: URL, tmp_path: Path) -> None:
    """Under dropped backends, SIGHUPs and cancellations nothing grows, and no unit lies."""
    with PostgresServer() as server:
        made = Databases(server.url())
        soak = await soak_shortly(server, sqlite_database, asyncpg=await made.create())
    assert judge(soak.samples, heap=HEAP) == []
    assert soak.lies == []
    assert min(soak.faults.values()) > 0
    path = tmp_path / "soak.json"
    write(figures(soak, minutes=0.1, tasks=TASKS), path)
    told = "\n".join(section(path))
    assert "## The soak, as it ran" in told
    assert "* asyncpg: " in told
    assert "| checked out | 0 | 0 | 0.00% |" in told


def test_without_a_soak_nothing_is_told(tmp_path: Path) -> None:
    """The report of the faults has no section of the soak when none ran."""
    assert section(tmp_path / "soak.json") == []


async def test_a_leak_would_be_seen(sqlite_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong way: whoever keeps a greenlet for each unit grows."""
    kept: list[greenlet] = []
    run = Block.run

    async def keep(block: Block) -> None:
        kept.append(greenlet(lambda: getcurrent().parent))
        await run(block)

    monkeypatch.setattr(Block, "run", keep)
    soak = await soak_shortly(None, sqlite_database)  # type: ignore[arg-type]  # SQLite alone
    assert any(said.startswith("greenlets grew") for said in judge(soak.samples, heap=HEAP))


async def test_a_lie_would_be_seen(sqlite_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong way: units that say they are committed, whatever became of them."""
    run = Block.run

    async def lie(block: Block) -> None:
        try:
            await run(block)
        finally:
            block.unit.state = UnitState.COMMITTED

    monkeypatch.setattr(Block, "run", lie)
    soak = await soak_shortly(None, sqlite_database)  # type: ignore[arg-type]  # SQLite alone
    assert any(said.startswith("committed, and other rows") for said in soak.lies)


@pytest.mark.parametrize("name", Sample._fields)
def test_each_measure_that_grows_is_named(name: str) -> None:
    """Two per cent more in the last third, or one more of what must be none, is not flat."""
    more: Any = getattr(FLAT, name) * 1.02 + 1
    samples = [FLAT] * 20 + [FLAT._replace(**{name: more})] * 10
    assert any(name in said for said in judge(samples))


def test_noise_is_not_growth() -> None:
    """A few samples that stand out, and a warm-up, are nothing."""
    peak = FLAT._replace(memory=2 * 10**8, tasks=9)
    assert judge([FLAT._replace(memory=10**7)] * 10 + [FLAT] * 16 + [peak] * 3 + [FLAT]) == []
