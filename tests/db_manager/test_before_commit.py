"""`before_commit`: the last part of a block, called in the transaction of the unit."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.errors import TransactionAbortedError, UnitOfWorkStateError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from observability.testing import EventRecorder


class Step(Base):
    """What was done."""

    __tablename__ = "before__step"

    name: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture
async def factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with the table."""
    async with database.engine.begin() as connection:
        tables = [Base.metadata.tables[Step.__tablename__]]
        await connection.run_sync(Base.metadata.create_all, tables)
    return UnitOfWorkFactory(database)


async def names(factory: UnitOfWorkFactory) -> set[str]:
    """Return what is there."""
    async with factory(read_only=True) as uow:
        return set(await uow.session.scalars(select(Step.name)))


async def insert(uow: UnitOfWork, name: str) -> None:
    """Insert a row at once."""
    await uow.connection.execute(Step.__table__.insert().values(name=name))  # type: ignore[attr-defined]  # a Table


def add(uow: UnitOfWork, name: str) -> None:
    """Add a row to the session."""
    uow.session.add(Step(name=name))


async def test_it_belongs_to_the_transaction(factory: UnitOfWorkFactory) -> None:
    """Sync and async ones run in order, see what the block did, and are committed with it."""
    seen: list[set[str]] = []

    async def look() -> None:
        seen.append(set(await uow.session.scalars(select(Step.name))))

    async with factory() as uow:
        uow.before_commit(partial(insert, uow, "first"))
        uow.before_commit(look)
        uow.before_commit(partial(add, uow, "second"))
        uow.before_commit(look)
        add(uow, "block")
        assert seen == []
    assert seen == [{"block", "first"}, {"block", "first", "second"}]
    assert uow.state == "committed"
    assert await names(factory) == {"block", "first", "second"}


async def test_a_unit_that_did_nothing_else_is_committed_with_it(
    factory: UnitOfWorkFactory,
) -> None:
    """The first statement of a unit may be that of a callback, on every lane."""
    async with factory() as uow:
        uow.before_commit(partial(insert, uow, "connection"))
    async with factory() as uow:
        uow.before_commit(partial(add, uow, "session"))
    assert await names(factory) == {"connection", "session"}


async def test_more_may_be_registered_meanwhile(factory: UnitOfWorkFactory) -> None:
    """What a callback registers runs after those that were there, before COMMIT."""
    order: list[str] = []

    def first() -> None:
        order.append("first")
        uow.before_commit(lambda: order.append("third"))
        uow.after_commit(lambda: order.append("after"))

    async with factory() as uow:
        uow.before_commit(first)
        uow.before_commit(lambda: order.append("second"))
    assert order == ["first", "second", "third", "after"]


async def test_what_it_raises_rolls_back(factory: UnitOfWorkFactory) -> None:
    """The error is that of the block, nothing is kept, and the rest of them is not called."""
    order: list[str] = []

    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        async with factory() as uow:
            add(uow, "block")
            uow.before_commit(refuse)
            uow.before_commit(lambda: order.append("never"))
            uow.after_rollback(lambda: order.append("rolled back"))
    assert (uow.state, order) == ("rolled_back", ["rolled back"])
    assert caught.value.__context__ is None
    assert await names(factory) == set()


async def test_a_statement_that_fails_in_it_rolls_back(factory: UnitOfWorkFactory) -> None:
    """Raised it is the error of the block; swallowed it is told all the same."""

    async def swallow(uow: UnitOfWork) -> None:
        with suppress(DBAPIError):
            await insert(uow, "twice")

    async def let_out(uow: UnitOfWork) -> None:
        await insert(uow, "twice")

    for callback, error in ((let_out, IntegrityError), (swallow, TransactionAbortedError)):
        uow = factory()
        with pytest.raises(error):
            async with uow:
                await insert(uow, "twice")
                uow.before_commit(partial(callback, uow))
        assert uow.state == "rolled_back"
    assert await names(factory) == set()


async def test_a_unit_that_is_rolled_back_calls_none(factory: UnitOfWorkFactory) -> None:
    """An error of the block, one that it swallowed, and `rollback()` are decided already."""
    called: list[str] = []

    async def spoil(uow: UnitOfWork) -> None:
        with pytest.raises(DBAPIError):
            await uow.session.execute(text("nonsense"))

    async def fail(_: UnitOfWork) -> None:
        raise ZeroDivisionError

    for work, error in (
        (fail, ZeroDivisionError),
        (spoil, TransactionAbortedError),
        (UnitOfWork.rollback, None),
    ):
        uow = factory()
        uow_error = None
        try:
            async with uow:
                uow.before_commit(lambda: called.append("called"))
                await work(uow)
        except Exception as raised:  # noqa: BLE001 -- compared below
            uow_error = type(raised)
        assert (uow.state, uow_error) == ("rolled_back", error)
    assert called == []


async def test_it_may_roll_back_by_hand(factory: UnitOfWorkFactory) -> None:
    """`rollback()` in one ends the unit without an error, and no other is called."""
    called: list[str] = []
    async with factory() as uow:
        add(uow, "block")
        uow.before_commit(uow.rollback)
        uow.before_commit(lambda: called.append("called"))
    assert (uow.state, called) == ("rolled_back", [])
    assert await names(factory) == set()


async def test_it_goes_with_its_savepoint(factory: UnitOfWorkFactory) -> None:
    """One of a savepoint that was rolled back is dropped, one of a kept one stays."""
    async with factory() as uow:
        async with uow.savepoint():
            uow.before_commit(partial(insert, uow, "kept"))
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                uow.before_commit(partial(insert, uow, "dropped"))
                raise ZeroDivisionError
    assert await names(factory) == {"kept"}


@pytest.mark.parametrize("nested", ["join", "savepoint"])
async def test_that_of_an_inner_unit_runs_at_the_end_of_the_outer_one(
    factory: UnitOfWorkFactory, nested: str
) -> None:
    """The transaction is that of the outer unit; one of an inner unit that is undone is dropped."""
    order: list[str] = []
    async with factory() as outer:
        async with factory(nested=nested) as inner:  # type: ignore[arg-type]  # both are literals
            inner.before_commit(lambda: order.append("inner"))
        order.append("block")
        with pytest.raises(ZeroDivisionError):
            async with factory(nested="savepoint") as undone:
                undone.before_commit(lambda: order.append("undone"))
                raise ZeroDivisionError
    assert order == ["block", "inner"]
    assert (outer.state, inner.state) == ("committed", "joined")


async def test_a_unit_that_it_leaves_open_is_an_error(factory: UnitOfWorkFactory) -> None:
    """A part of the unit that a callback enters and does not leave is undone with the unit."""

    async def enter() -> None:
        await factory(nested="join").__aenter__()

    with pytest.raises(TransactionAbortedError):
        async with factory() as uow:
            add(uow, "block")
            uow.before_commit(enter)
    assert await names(factory) == set()


async def test_a_cancellation_in_it_rolls_back(
    factory: UnitOfWorkFactory, database: Database
) -> None:
    """It can be cancelled as the block can; the connection is back, and the next unit works."""
    inside = asyncio.Event()

    async def hang() -> None:
        inside.set()
        await asyncio.Event().wait()

    async def work(uow: UnitOfWork) -> None:
        async with uow:
            add(uow, "block")
            await uow.session.flush()
            uow.before_commit(hang)

    uow = factory()
    with EventRecorder(database.bus) as events:
        task = asyncio.create_task(work(uow))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    events.assert_event("uow.rollback", cause="cancelled")
    assert (uow.state, database.pool_levels()["used"]) == ("rolled_back", 0)
    assert await names(factory) == set()


async def test_only_an_open_unit_takes_one(factory: UnitOfWorkFactory) -> None:
    """Before and after its block a unit refuses it."""
    uow = factory()
    register: Callable[[], None] = partial(uow.before_commit, lambda: None)
    with pytest.raises(UnitOfWorkStateError):
        register()
    async with uow:
        register()
    with pytest.raises(UnitOfWorkStateError):
        register()


async def test_an_attempt_of_run_has_its_own(factory: UnitOfWorkFactory) -> None:
    """`run` that tries again calls those of its last attempt only."""
    called: list[int] = []

    async def work(uow: UnitOfWork) -> None:
        attempt = len(called)

        async def once() -> None:
            called.append(attempt)
            if attempt == 0:
                raise ConnectionResetError

        uow.before_commit(once)
        await insert(uow, f"attempt {attempt}")

    with pytest.raises(ConnectionResetError):
        await factory.run(work)
    await factory.run(work)
    assert called == [0, 1]
    assert await names(factory) == {"attempt 1"}
