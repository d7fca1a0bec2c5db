"""An engine that is dropped without a dispose: what is said, and when nothing is."""

import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.engine.create import create_engine
from db_manager.unit.uow import UnitOfWork

Build = Callable[..., AsyncEngine]

#: Uses an engine of the module, and ends it as its second argument says.
PROGRAM = """
import asyncio, gc, sys
from sqlalchemy import text
from db_manager import DatabaseConfig, create_engine

engine = create_engine(DatabaseConfig(database=sys.argv[1]))

async def main():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    if sys.argv[2] == "disposed":
        await engine.dispose()

asyncio.run(main())
if sys.argv[2] == "dropped":
    del engine
    gc.collect()
"""


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build engines on a file of SQLite."""

    def build(**keys: Any) -> AsyncEngine:
        return create_engine(DatabaseConfig(database=str(tmp_path / "bot.sqlite3"), **keys))

    return build


async def use(engine: AsyncEngine) -> None:
    """Send a statement, so that the engine opens a connection."""
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


def told() -> list[str]:
    """Collect garbage twice, and return what is said of engines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        gc.collect()
    said = [warning for warning in caught if "await engine.dispose()" in str(warning.message)]
    assert {warning.category for warning in said} <= {ResourceWarning}
    return [str(warning.message) for warning in said]


async def test_an_engine_that_is_dropped_open_is_told_once(build: Build, tmp_path: Path) -> None:
    """An engine that connected and was never disposed is one ResourceWarning, with what to do."""
    engine = build(pool_size=3)
    async with engine.connect(), engine.connect():
        pass
    assert told() == []
    del engine
    (line,) = told()
    place = f"sqlite+aiosqlite:///{tmp_path}/bot.sqlite3"
    assert line.startswith(f"the engine of {place} was dropped with its connections open")
    assert told() == []


async def test_an_engine_on_a_server_is_told_too(database_url: URL) -> None:
    """An engine is told whatever its driver says of the connections that it loses."""
    url = database_url.render_as_string(hide_password=False)
    engine = create_engine(DatabaseConfig(url=url))
    await use(engine)
    del engine
    (line,) = told()
    assert database_url.drivername in line


async def test_a_disposed_engine_is_not_told(build: Build) -> None:
    """A disposed engine says nothing, by whichever of its faces it was disposed."""
    engine = build()
    await use(engine)
    await engine.dispose()
    del engine
    face = build()
    await use(face)
    await face.execution_options(isolation_level="AUTOCOMMIT").dispose()
    del face
    in_a_fork = build()
    await use(in_a_fork)
    await in_a_fork.dispose(close=False)
    del in_a_fork
    assert told() == []


async def test_an_engine_that_never_connected_is_not_told(build: Build, tmp_path: Path) -> None:
    """An engine that was only built, or whose attempts all failed, holds nothing."""
    build()
    nowhere = create_engine(DatabaseConfig(database=str(tmp_path / "nowhere" / "bot.sqlite3")))
    with suppress(Exception):
        await use(nowhere)
    refusing = build()

    @event.listens_for(refusing.sync_engine, "do_connect")
    def refuse(*_args: object) -> None:
        raise ConnectionRefusedError

    with suppress(Exception):
        await use(refusing)
    del nowhere, refusing, refuse
    assert told() == []


async def test_a_dispose_that_failed_is_no_dispose(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose dispose raised is told, for its connections may be open."""
    engine = build()
    await use(engine)

    def fail(_pool: object) -> None:
        raise OSError

    with monkeypatch.context() as patched, suppress(OSError):
        patched.setattr(type(engine.sync_engine.pool), "dispose", fail)
        await engine.dispose()
    del engine
    assert len(told()) == 1


async def test_the_warning_does_not_keep_the_engine(build: Build) -> None:
    """An engine that was told is gone: the finalizer holds nothing that leads back to it."""
    engine = build()
    await use(engine)
    seen = weakref.ref(engine.sync_engine)
    del engine
    assert len(told()) == 1
    assert seen() is None


async def test_another_face_keeps_the_engine_open(build: Build) -> None:
    """An engine with other execution options shares the pool: nothing is said while it lives."""
    engine = build()
    await use(engine)
    face = engine.execution_options(isolation_level="AUTOCOMMIT")
    del engine
    assert told() == []
    await use(face)
    del face
    assert len(told()) == 1


async def test_an_engine_with_another_pool_is_told(build: Build) -> None:
    """An engine whose pool is SQLAlchemy's own is told like one with ours."""
    engine = build(engine_options={"poolclass": AsyncAdaptedQueuePool})
    await use(engine)
    del engine
    assert len(told()) == 1


async def test_the_engine_of_units_is_told(build: Build) -> None:
    """Units that all ended do not hide that their engine was never disposed."""
    database = Database(build())
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("SELECT 1"))
    del uow, database
    assert len(told()) == 1


async def test_a_disposed_database_is_not_told(build: Build) -> None:
    """The plugin's way to close its engines, the read-only one too, is a dispose."""
    database = Database(build())
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("SELECT 1"))
    await database.dispose()
    del uow, database
    assert told() == []


async def test_units_cost_nothing_more(build: Build) -> None:
    """Nothing listens for what happens in a unit: only connecting and disposing are heard."""
    sync: Engine = build().sync_engine
    per_use = ("checkout", "checkin", "reset", "begin", "commit", "rollback", "before_execute")
    heard = [
        name
        for name in per_use
        for dispatch in (sync.dispatch, sync.pool.dispatch)
        for listener in getattr(dispatch, name, ())
        if listener.__module__ == "db_manager.engine.left_open"
    ]
    assert heard == []


async def test_the_watch_switches_on_no_events_of_statements(build: Build) -> None:
    """SQLAlchemy asks the events of an engine in no statement because of the watch over it."""
    engine = build()
    asks = ["_has_events" in vars(engine.sync_engine)]
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *_: None)
    asks.append("_has_events" in vars(engine.sync_engine))
    assert asks == [False, True]
    await engine.dispose()


def test_listeners_of_every_engine_are_still_asked(build: Build) -> None:
    """What listens to the class of engines, as faults do, hears of ours, too."""
    engine = build()

    def listen(_connection: object) -> None:
        """Hear of a commit."""

    event.listen(Engine, "commit", listen)
    try:
        assert engine.sync_engine._has_events
    finally:
        event.remove(Engine, "commit", listen)


@pytest.mark.parametrize(("end", "times"), [("disposed", 0), ("left", 0), ("dropped", 1)])
def test_the_end_of_a_process_says_nothing(tmp_path: Path, end: str, times: int) -> None:
    """An engine that lives until the process ends is not told; one that is dropped before is."""
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, str(tmp_path / "bot.sqlite3"), end],
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert run.stderr.count("call `await engine.dispose()` first") == times
