"""Faults happen for real: real errors, real events, and afterwards everything is well again."""

import gc
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.database.open_unit import UnitState
from db_manager.errors import (
    CommitOutcomeUnknownError,
    PoolExhaustedError,
    RetriesExhaustedError,
)
from db_manager.testing import Faults, ImpossibleFaultError, Sandbox
from db_manager.unit.resolve import resolve
from db_manager.unit.uow import UnitOfWork
from lifecycle.errors import HookTimeoutError, PluginFailedError, WiringError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.machine import State
from lifecycle.plugins.plugin import Plugin
from observability.testing import EventRecorder


class Coin(Base):
    """Something to count."""

    __tablename__ = "faulty__coin"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(scope="session", params=["sqlite", "asyncpg", "psycopg"])
def sandbox_url(request: pytest.FixtureRequest) -> str | URL:
    """Sandboxes on SQLite, and on PostgreSQL with both drivers."""
    if request.param == "sqlite":
        return ""
    admin: URL = request.getfixturevalue("postgres_admin")
    return admin.set(drivername=f"postgresql+{request.param}")


postgres_only = pytest.mark.parametrize("sandbox_url", ["asyncpg", "psycopg"], indirect=True)
sqlite_only = pytest.mark.parametrize("sandbox_url", ["sqlite"], indirect=True)


async def add(unit: UnitOfWork) -> UnitOfWork:
    """Add a coin in a unit."""
    async with unit:
        unit.session.add(Coin())
    return unit


async def coins(sandbox: Sandbox) -> int:
    """Return how many there are."""
    async with sandbox.uow_factory(read_only=True) as uow:
        return await uow.session.scalar(select(func.count()).select_from(Coin)) or 0


async def test_the_server_refuses_a_commit(
    sandbox: Sandbox, faults: Faults, events: EventRecorder
) -> None:
    """The refused unit is rolled back with the server's error, and the next one is well."""
    faults.refuse_commit()
    with pytest.raises(IntegrityError):
        await add(sandbox.uow_factory())
    events.assert_sequence("uow.begin", "uow.rollback", "uow.close")
    events.assert_event("uow.rollback", cause="error")
    events.assert_none("uow.commit")
    assert await coins(sandbox) == 0
    assert (await add(sandbox.uow_factory())).state is UnitState.COMMITTED
    assert await coins(sandbox) == 1


@postgres_only
async def test_a_serialization_failure_is_tried_again(
    sandbox: Sandbox, faults: Faults, events: EventRecorder
) -> None:
    """`run` repeats the unit when the server refuses with 40001, and gives up in the end."""

    async def work(uow: UnitOfWork) -> None:
        uow.session.add(Coin())

    faults.refuse_commit(sqlstate="40001", times=2)
    await sandbox.uow_factory.run(work)
    events.assert_sequence("uow.rollback", "uow.retry", "uow.rollback", "uow.retry", "uow.commit")
    assert events.assert_event("uow.retry").as_dict()["sqlstate"] == "40001"
    faults.refuse_commit(sqlstate="40001", times=2)
    with pytest.raises(RetriesExhaustedError):
        await sandbox.uow_factory.run(work, attempts=2)
    assert await coins(sandbox) == 1


@pytest.mark.parametrize("committed", [True, False])
async def test_the_outcome_of_a_commit_is_unknown(
    sandbox: Sandbox, faults: Faults, events: EventRecorder, *, committed: bool
) -> None:
    """The unit cannot know, the rows are there or not, and the next unit is well."""
    faults.lose_commit(committed=committed)
    unit = sandbox.uow_factory()
    with pytest.raises(CommitOutcomeUnknownError):
        await add(unit)
    assert unit.state is UnitState.OUTCOME_UNKNOWN
    events.assert_sequence("uow.begin", "uow.unknown", "uow.close")
    events.assert_event("uow.close", statements=1)  # those of the fault are not the unit's
    events.assert_none("uow.commit")
    events.assert_none("uow.rollback")
    assert await coins(sandbox) == int(committed)
    await add(sandbox.uow_factory())
    assert await coins(sandbox) == int(committed) + 1


@postgres_only
@pytest.mark.parametrize("committed", [True, False])
async def test_an_unknown_outcome_can_be_resolved(
    sandbox: Sandbox, faults: Faults, *, committed: bool
) -> None:
    """`resolve` finds the truth behind the fault."""
    faults.lose_commit(committed=committed)
    with pytest.raises(CommitOutcomeUnknownError) as caught:
        await add(sandbox.uow_factory(resolvable=True))
    found = await resolve(sandbox.engine, caught.value)
    assert found == ("committed" if committed else "rolled_back")


@postgres_only
async def test_the_connection_drops(
    sandbox: Sandbox, faults: Faults, events: EventRecorder
) -> None:
    """The statement fails with the driver's own error, and `run` gets it done on another one."""

    async def work(uow: UnitOfWork) -> None:
        uow.session.add(Coin())

    faults.drop_connection()
    with pytest.raises(DBAPIError) as caught:
        await add(sandbox.uow_factory())
    assert caught.value.connection_invalidated
    events.assert_sequence("uow.begin", "uow.rollback", "uow.close")
    faults.drop_connection()
    await sandbox.uow_factory.run(work)
    events.assert_sequence("uow.retry", "uow.commit")
    assert await coins(sandbox) == 1


async def test_the_pool_is_empty(sandbox: Sandbox, faults: Faults, events: EventRecorder) -> None:
    """A unit gets no connection, a reading one neither; later ones do, and none is lost."""
    faults.empty_pool(times=2)
    for read_only in (False, True):
        with pytest.raises(PoolExhaustedError):
            async with sandbox.uow_factory(read_only=read_only) as uow:
                await uow.session.execute(text("SELECT 1"))
    assert events.assert_event("pool.exhausted").as_dict()["size"] == 10
    assert await coins(sandbox) == 0
    pool: Any = sandbox.engine.sync_engine.pool
    assert pool.checkedout() == 0
    gc.collect()  # a connection that was not given back would complain


async def test_a_unit_that_only_reads_is_spared(sandbox: Sandbox, faults: Faults) -> None:
    """There is no COMMIT to be refused or lost in a unit that only reads."""
    for arm, error in (
        (faults.refuse_commit, IntegrityError),
        (faults.lose_commit, CommitOutcomeUnknownError),
    ):
        arm()
        for read_only in (True, "snapshot"):
            async with sandbox.uow_factory(read_only=read_only) as uow:
                await uow.session.execute(select(Coin))
        with pytest.raises(error):
            await add(sandbox.uow_factory())


async def test_faults_strike_the_engine_of_an_application(
    sandbox: Sandbox, faults: Faults, events: EventRecorder
) -> None:
    """Whoever commits to the sandbox's database is struck, through whatever engine."""
    app = await sandbox.start()
    faults.refuse_commit()
    with pytest.raises(IntegrityError):
        await add(app.services["db_manager:uow_factory"]())
    events.assert_event("uow.rollback", cause="error")


class Slow(Plugin):
    """A plugin that would start at once."""

    name = "slow"

    async def start(self, context: PluginContext) -> None:
        """Start."""
        context.provide("done", True)  # noqa: FBT003 -- a value


@sqlite_only
async def test_a_plugin_hangs_in_start(
    sandbox: Sandbox, faults: Faults, events: EventRecorder
) -> None:
    """Its deadline ends it, it is failed, and without the fault it starts."""
    app = sandbox.application(Slow)
    faults.hang_start(app, "slow")
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    assert isinstance(caught.value.__cause__, HookTimeoutError)
    events.assert_event("plugin.failed", plugin="slow", hook="start")
    assert app.plugins["slow"].state is State.FAILED
    faults.close()
    await app.start()
    assert app.services["slow:done"]
    with pytest.raises(WiringError, match="did you mean 'slow'"):
        faults.hang_start(app, "slwo")


@sqlite_only
async def test_what_sqlite_cannot_suffer_is_said(sandbox: Sandbox, faults: Faults) -> None:
    """A fault that the database cannot have is refused, with the way to have it."""
    with pytest.raises(ImpossibleFaultError, match=r"no connection to drop.*sandbox_url"):
        faults.drop_connection()
    with pytest.raises(ImpossibleFaultError, match=r"never with 40001.*sandbox_url"):
        faults.refuse_commit(sqlstate="40001")
    with pytest.raises(ValueError, match="not five characters"):
        faults.refuse_commit(sqlstate="'; DROP")
    assert await coins(sandbox) == 0


@sqlite_only
async def test_a_fault_that_never_happened_fails_the_test(sandbox: Sandbox) -> None:
    """A test whose fault did not strike has tested nothing, and hears of it."""
    faults = Faults(sandbox)
    faults.refuse_commit()
    with pytest.raises(ValueError, match="armed already"):
        faults.refuse_commit()
    with pytest.raises(AssertionError, match="never occurred: refuse_commit"):
        faults.close()
    assert (await add(sandbox.uow_factory())).state is UnitState.COMMITTED
    faults.close()
