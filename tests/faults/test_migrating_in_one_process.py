"""Several migrations in one process: M19."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from threading import Lock

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.gate import WAITS, Gate
from support.project import Project
from support.shop import application, shop_at

from db_manager.migrations import alembic_context
from db_manager.migrations.failure import MigrationError
from lifecycle.application import Application
from observability.testing import EventRecorder

REVISIONS = ["0001_first", "0002_second"]
WAITING = f"""
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    {WAITS}
    op.execute("UPDATE shop__item SET n = 8")
"""

Row = Callable[..., None]


class Free:
    """A lock that keeps nobody out."""

    def acquire(self, *, blocking: bool) -> bool:
        """Let anybody in."""
        del blocking
        return True

    def release(self) -> None:
        """Do nothing."""


async def applied(apps: list[Application]) -> list[tuple[str, str]]:
    """Start bots at once, and stop them; return the database and the revision of each event."""
    async with AsyncExitStack() as stack:
        recorders = [stack.enter_context(EventRecorder(app.bus)) for app in apps]
        for app in apps:
            stack.push_async_callback(app.unload)
        await asyncio.gather(*(app.start() for app in apps))
        events = [event.as_dict() for recorder in recorders for event in recorder.events]
    return [
        (event["database"], event["revision"])
        for event in events
        if event["topic"] == "database.migrated"
    ]


async def test_several_databases_of_one_bot(
    tmp_path: Path, url: URL, sqlite_database: URL, row: Row
) -> None:
    """M19: each has its own migrations, which end in it."""
    other = sqlite_database.set(database=str(tmp_path / "other.sqlite3"))
    projects = [shop_at(tmp_path / "main", url), _guests(tmp_path / "guests", other)]
    found = await applied([application(*projects)])
    assert sorted(found) == [(name, each) for name in ("guests", "main") for each in REVISIONS]
    assert await projects[0].say("SELECT n FROM shop__item") == [(8,)]
    assert await projects[1].say("SELECT n FROM guests__item") == [(8,)]
    row(
        "M19",
        load=f"{url.drivername} and SQLite in one bot",
        result="2 × 2 applied, each in its own",
    )


def _guests(folder: Path, url: URL) -> Project:
    """Return a project like the shop, with another prefix."""
    shop = shop_at(folder, url)
    models = (folder / "models.py").read_text(encoding="utf-8")
    (folder / "models.py").write_text(models.replace("shop__", "guests__"), encoding="utf-8")
    shop.load()
    for file in sorted((folder / "migrations" / "shop").glob("*.py")):
        there = folder / "migrations" / "guests" / file.name
        there.parent.mkdir(exist_ok=True)
        there.write_text(file.read_text(encoding="utf-8").replace("shop__", "guests__"))
    return shop


async def test_bots_that_start_together_in_one_loop(
    tmp_path: Path, url: URL, row: Row, *, full: bool
) -> None:
    """M19: several on one database, as a supervisor of bots starts them."""
    count = 5 if full else 3
    shop = shop_at(tmp_path / "shop", url)
    found = await applied([application(shop) for _ in range(count)])
    assert sorted(revision for _, revision in found) == REVISIONS
    assert await shop.say("SELECT id, n FROM shop__item") == [(1, 8)]
    row(
        "M19",
        load=f"{url.drivername}: {count} bots start in one loop",
        result="2 applied, once each",
    )


async def test_databases_in_memory(tmp_path: Path, row: Row, *, full: bool) -> None:
    """M19: each is in the connection of its bot."""
    count = 5 if full else 3
    shop = shop_at(tmp_path / "shop", URL.create("sqlite+aiosqlite", database=":memory:"))
    apps = [application(shop) for _ in range(count)]
    async with AsyncExitStack() as stack:
        for app in apps:
            stack.push_async_callback(app.unload)
        await asyncio.gather(*(app.start() for app in apps))
        for app in apps:
            async with app.services["db_manager:uow_factory"]() as uow:
                assert await uow.session.scalar(text("SELECT n FROM shop__item")) == 8
    row("M19", load=f"{count} databases in memory start in one loop", result="each has all")


async def two_at_once(folder: Path, gate: Gate) -> None:
    """Migrate a database while the migration of another one is in the middle."""
    urls = [URL.create("sqlite+aiosqlite", database=str(folder / f"{n}.sqlite3")) for n in (1, 2)]
    slow = shop_at(folder / "slow", urls[0], WAITING)
    quick = shop_at(folder / "quick", urls[1])
    first = asyncio.create_task(slow.upgrade())
    await gate.reached.wait()
    second = asyncio.create_task(quick.upgrade())
    done, _ = await asyncio.wait({second}, timeout=1)  # it must not get through before the first
    gate.opened.set()
    await asyncio.gather(first, second)
    assert not done
    assert await slow.say("SELECT n FROM shop__item") == [(8,)]


async def test_two_that_meet_wait_for_each_other(tmp_path: Path) -> None:
    """M19: Alembic's `op` is of the process, so one migration runs at a time in it."""
    with Gate() as gate:
        await two_at_once(tmp_path, gate)


async def test_two_that_meet_would_break_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M19, the wrong way: without the lock the one loses its `op` to the other."""
    assert isinstance(alembic_context._alone, type(Lock()))
    monkeypatch.setattr(alembic_context, "_alone", Free())
    with Gate() as gate, pytest.raises(MigrationError, match=r"(?:Key|Name|Attribute)Error"):
        await two_at_once(tmp_path, gate)
