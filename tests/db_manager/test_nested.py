"""Units inside of units: refused, joined, or a savepoint, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKey, event, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, ResourceClosedError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db_manager.database.database import Database
from db_manager.errors import (
    CommitOutcomeUnknownError,
    ManagerClosedError,
    TransactionAbortedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import UnitJoined, UnitLeft
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.held import Guard
from db_manager.unit.uow import UnitOfWork
from observability.testing import EventRecorder

pytestmark = pytest.mark.usefixtures("runner")

HERE = Path(__file__).name


class Own(DeclarativeBase):
    """Not the Base of the plugins: not every database has deferred constraints."""


class Item(Own):
    """Something with a name that nothing else has."""

    __tablename__ = "nested_test__item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Child(Own):
    """Something that belongs to an item, which is looked for at COMMIT."""

    __tablename__ = "nested_test__child"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey(Item.id, deferrable=True, initially="DEFERRED"))


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with the tables."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    return UnitOfWorkFactory(database)


async def names(database: Database) -> list[str]:
    """Return the items that are really there, as another connection sees them."""
    async with database.engine.connect() as connection:
        return list(await connection.scalars(select(Item.name).order_by(Item.name)))


def add(uow: UnitOfWork, *items: str) -> None:
    """Add items to the session."""
    uow.session.add_all(Item(name=name) for name in items)


def line(marker: str) -> int:
    """Return the number of the one line of this file that ends with a comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (at for at, each in enumerate(lines, 1) if each.endswith(f"# {marker}"))
    return number


# -- refused ---------------------------------------------------------------------------------


async def test_the_refusal_says_where_the_first_was_opened(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """The error of a second unit has file, line and function of the first, and no path."""
    async with uow_factory() as uow:  # first
        add(uow, "kept")
        with pytest.raises(UnitOfWorkStateError, match="is active; pass the open unit") as caught:
            async with uow_factory():
                pass
    said = str(caught.value)
    assert f"{HERE}:{line('first')} in test_the_refusal_says_where_" in said
    assert str(Path(__file__).parent) not in said
    assert 'nested="join" or nested="savepoint"' in said
    assert await names(database) == ["kept"]


async def test_what_opens_for_somebody_else_is_not_named(uow_factory: UnitOfWorkFactory) -> None:
    """A unit of an exit stack was opened where the stack was given it, one of `run` at `run`."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(uow_factory())  # on a stack
        with pytest.raises(UnitOfWorkStateError, match=f"{HERE}:{line('on a stack')} in test_"):
            await uow_factory().__aenter__()

    async def work(_: UnitOfWork) -> None:
        await uow_factory().__aenter__()

    with pytest.raises(UnitOfWorkStateError, match=f"{HERE}:{line('by run')} in test_"):
        await uow_factory.run(work)  # by run


async def test_another_word_is_refused_at_once(uow_factory: UnitOfWorkFactory) -> None:
    """A typo in `nested` is an error also where no unit is open."""
    wrong: Any = "joined"
    with pytest.raises(ValueError, match="nested is 'joined'; it is one of"):
        uow_factory(nested=wrong)
    with pytest.raises(ValueError, match="nested is 'joined'; it is one of"):
        await uow_factory.run(lambda _: asyncio.sleep(0), nested=wrong)


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_the_key_is_the_default(
    database_url: URL, open_database: Callable[..., Database], mode: Any
) -> None:
    """`[database] nested` holds for units that say nothing; the argument overrides it."""
    uow_factory = UnitOfWorkFactory(open_database(database_url, nested=mode))
    async with uow_factory() as outer:
        async with uow_factory() as inner:
            assert inner.outer is outer
        with pytest.raises(UnitOfWorkStateError):
            async with uow_factory(nested="refuse"):
                pass


# -- joined ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_one_transaction(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder, mode: Any
) -> None:
    """Both share lanes, identity map and COMMIT; the inner one has its own two events."""
    async with uow_factory() as outer:
        add(outer, "outer")
        async with uow_factory(nested=mode) as inner:
            assert (inner.session, inner.connection) == (outer.session, outer.connection)
            assert await inner.driver() is await outer.driver()
            known = await inner.session.scalar(select(Item))
            add(inner, "inner")
            assert inner.state == "active"
        assert (inner.state, outer.state) == ("joined", "active")
        assert await outer.session.scalar(select(Item).where(Item.name == "outer")) is known
        with pytest.raises(UnitOfWorkStateError, match="the unit of work is joined"):
            _ = inner.session
    assert (outer.state, inner.state, inner.outer) == ("committed", "joined", outer)
    assert await names(database) == ["inner", "outer"]
    told = [each for each in events.events if each.topic != "database.statement"]
    assert [each.topic for each in told] == [
        *("uow.begin", "uow.join", "uow.leave", "uow.commit", "uow.close"),
    ]
    assert {getattr(each, "unit", 0) for each in events.events} == {outer.number}
    _, joined, left, *_ = told
    assert isinstance(joined, UnitJoined)
    assert (joined.inner, joined.mode) == (inner.number, mode)
    assert isinstance(left, UnitLeft)
    assert (left.inner, left.outcome, left.error) == (inner.number, "joined", "")


async def test_the_object_itself_may_be_used(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """`async with unit:` without `as` works inside as it does outside; entered once."""
    outer, inner = uow_factory(), uow_factory(nested="join")
    async with outer:
        async with inner:
            add(inner, "inner")
            with pytest.raises(UnitOfWorkStateError, match="cannot be entered again"):
                await inner.__aenter__()
            with pytest.raises(UnitOfWorkStateError, match="cannot be entered again"):
                await outer.__aenter__()
        with pytest.raises(UnitOfWorkStateError, match="cannot be entered again"):
            await inner.__aenter__()
    assert await names(database) == ["inner"]


class Swallowed(Exception):  # noqa: N818 -- it is what happens to it
    """An error of a block."""


@pytest.mark.parametrize("used", [True, False])
async def test_a_swallowed_error_of_a_joined_unit_fails_the_whole(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder, *, used: bool
) -> None:
    """Nothing is written, and the outer unit says so and names the place of the inner one."""
    with pytest.raises(TransactionAbortedError, match=f"{HERE}:{line('swallowed')} in") as caught:
        async with uow_factory() as outer:
            if used:
                await outer.session.execute(insert(Item).values(name="lost"))
            with suppress(Swallowed):
                async with uow_factory(nested="join") as inner:  # swallowed
                    raise Swallowed
    assert isinstance(caught.value.__cause__, Swallowed)
    assert (outer.state, inner.state) == ("rolled_back", "joined")
    assert await names(database) == []
    events.assert_event("uow.leave", inner=inner.number, outcome="failed")


async def test_an_error_that_nobody_swallows_passes_as_it_is(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """An error that leaves both blocks is the same object outside, without an error of ours."""
    error = Swallowed()
    with pytest.raises(Swallowed) as caught:
        async with uow_factory() as outer, uow_factory(nested="join") as inner:
            add(inner, "lost")
            raise error
    assert caught.value is error
    assert outer.state == "rolled_back"
    assert await names(database) == []


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_a_failed_statement_that_the_inner_block_swallowed(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """It is told where the inner block ends, which swallowed it."""
    async with uow_factory() as uow:
        add(uow, "taken")
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            add(outer, "outer")
            with pytest.raises(TransactionAbortedError, match="a statement of this unit") as caught:
                async with uow_factory(nested=mode) as inner:
                    with suppress(IntegrityError):
                        await inner.session.execute(insert(Item).values(name="taken"))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert outer.state == ("committed" if mode == "savepoint" else "rolled_back")
    assert await names(database) == (["outer", "taken"] if mode == "savepoint" else ["taken"])


async def test_a_rollback_by_hand_of_a_joined_unit(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """The inner block cannot go on, and the outer one cannot commit in silence."""
    with pytest.raises(TransactionAbortedError, match="joined this one") as caught:
        async with uow_factory() as outer:
            add(outer, "lost")
            async with uow_factory(nested="join") as inner:
                await inner.rollback()
                with pytest.raises(UnitOfWorkStateError, match="the unit of work is joined"):
                    _ = inner.session
    assert "rolled back by hand" in str(caught.value.__cause__)
    assert outer.state == "rolled_back"
    assert await names(database) == []


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_the_outer_one_rolled_back_inside(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder, mode: Any
) -> None:
    """`outer.rollback()` ends both, and both blocks are left without an error."""
    async with uow_factory() as outer, uow_factory(nested=mode) as inner:
        add(inner, "lost")
        await outer.rollback()
        with pytest.raises(UnitOfWorkStateError):
            _ = inner.session
        async with uow_factory(nested=mode) as third:
            assert third.outer is None
            add(third, "kept")
    assert (outer.state, inner.state) == ("rolled_back", "joined")
    assert await names(database) == ["kept"]
    assert [each.topic for each in events.topic("uow.leave").events] == ["uow.leave"]


# -- savepoints ------------------------------------------------------------------------------


async def test_an_error_goes_back_to_the_savepoint(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """The inner unit is undone alone, on every lane, and the outer one goes on."""
    async with uow_factory() as outer:
        add(outer, "before")
        with pytest.raises(Swallowed):
            async with uow_factory(nested="savepoint") as inner:
                add(inner, "by the session")
                await inner.connection.execute(insert(Item).values(name="by core"))
                driver: Any = await inner.driver()
                await driver.execute("INSERT INTO nested_test__item (name) VALUES ('by driver')")
                raise Swallowed
        add(outer, "after")
    assert (outer.state, inner.state) == ("committed", "rolled_back")
    assert await names(database) == ["after", "before"]
    (left,) = events.topic("uow.leave").events
    assert isinstance(left, UnitLeft)
    assert (left.outcome, left.error.partition(":")[0]) == ("rolled_back", "Swallowed")


async def test_a_rollback_by_hand_goes_back_to_the_savepoint(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """After it the inner unit is over, and the outer one commits the rest."""
    async with uow_factory() as outer:
        add(outer, "outer")
        async with uow_factory(nested="savepoint") as inner:
            add(inner, "lost")
            async with inner.savepoint():
                await inner.rollback()
            with pytest.raises(UnitOfWorkStateError, match="the unit of work is rolled_back"):
                await inner.rollback()
    assert (outer.state, inner.state) == ("committed", "rolled_back")
    assert await names(database) == ["outer"]


async def test_they_nest(database: Database, uow_factory: UnitOfWorkFactory) -> None:
    """A joined unit fails what is around it: the savepoint of another, and no more."""
    async with uow_factory() as outer:
        add(outer, "outer")
        with pytest.raises(TransactionAbortedError):
            async with uow_factory(nested="savepoint") as middle:
                add(middle, "middle")
                with suppress(Swallowed):
                    async with uow_factory(nested="join") as inner:
                        assert inner.outer is outer
                        raise Swallowed
        async with uow_factory(nested="savepoint") as middle:
            add(middle, "later")
            with suppress(Swallowed):
                async with uow_factory(nested="savepoint") as inner:
                    add(inner, "undone")
                    raise Swallowed
    assert await names(database) == ["later", "outer"]


async def test_a_savepoint_around_undoes_a_joined_unit(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """What a savepoint has undone with all it did may be swallowed."""
    async with uow_factory() as outer:
        with suppress(Swallowed):
            async with outer.savepoint(), uow_factory(nested="join") as inner:
                add(inner, "undone")
                raise Swallowed
        add(outer, "kept")
    assert await names(database) == ["kept"]


@pytest.mark.parametrize("mode", ["join", "savepoint"])
@pytest.mark.parametrize("by", ["a part", "a unit", "hand"])
async def test_a_savepoint_around_that_is_rolled_back_later(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any, by: str
) -> None:
    """It takes along a unit that had ended well in it, which says so and runs `after_rollback`."""
    ran: list[str] = []
    async with uow_factory() as outer:
        around = outer.savepoint() if by == "a part" else uow_factory(nested="savepoint")
        with suppress(Swallowed):
            async with AsyncExitStack() as stack:
                by_hand = await outer.session.begin_nested() if by == "hand" else None
                if by_hand is None:
                    await stack.enter_async_context(around)
                async with uow_factory(nested=mode) as inner:
                    inner.after_commit(lambda: ran.append("never"))
                    inner.after_rollback(lambda: ran.append("undone"))
                    with suppress(Swallowed):
                        async with inner.savepoint():
                            inner.after_rollback(lambda: ran.append("never"))
                            raise Swallowed
                    add(inner, "undone")
                assert inner.state == "joined"
                if by_hand is not None:
                    await by_hand.rollback()
                raise Swallowed
        assert ran == []
        add(outer, "kept")
    assert (outer.state, inner.state, ran) == ("committed", "rolled_back", ["undone"])
    assert await names(database) == ["kept"]


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_a_savepoint_around_that_is_rolled_back_inside(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """What the inner unit had done is gone, so its block cannot end well."""
    with pytest.raises(TransactionAbortedError, match="joined this one"):
        async with uow_factory() as outer:
            around = await outer.session.begin_nested()
            with pytest.raises(UnitOfWorkStateError, match="has ended before the block"):
                async with uow_factory(nested=mode) as inner:
                    add(inner, "lost")
                    await inner.session.flush()
                    await around.rollback()
    assert outer.state == "rolled_back"
    assert await names(database) == []


async def test_a_savepoint_of_a_joined_unit_that_was_left_open(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """It is kept with the block that began it: nobody can take it back later."""
    async with uow_factory() as outer, outer.savepoint():
        async with uow_factory(nested="join") as inner:
            left_open = await inner.session.begin_nested()
            add(inner, "kept")
        with pytest.raises(ResourceClosedError):
            await left_open.rollback()
    assert (outer.state, inner.state) == ("committed", "joined")
    assert await names(database) == ["kept"]


async def test_a_savepoint_that_cannot_be_released(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """SQLAlchemy then does not go back to it either, so the whole unit fails: no half of it."""

    def refuse(*_: object) -> None:
        raise Swallowed

    engine = database.engine.sync_engine
    event.listen(engine, "release_savepoint", refuse)
    for part in (uow_factory(nested="savepoint"), None):
        ran: list[str] = []
        with pytest.raises(TransactionAbortedError):
            async with uow_factory() as outer:
                outer.after_commit(lambda: ran.append("never"))  # noqa: B023 -- used at once
                with suppress(Swallowed):
                    async with part or outer.savepoint():
                        add(outer, "written")
        assert (outer.state, ran) == ("rolled_back", [])
    event.remove(engine, "release_savepoint", refuse)
    assert await names(database) == []


async def test_a_savepoint_that_cannot_be_begun(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """None is left open in the outer unit, which goes on."""

    def refuse(*_: object) -> None:
        raise Swallowed

    engine = database.engine.sync_engine
    async with uow_factory() as outer:
        add(outer, "before")
        event.listen(engine, "savepoint", refuse)
        with suppress(Swallowed):
            async with uow_factory(nested="savepoint"):
                pytest.fail("it was entered")
        event.remove(engine, "savepoint", refuse)
        assert not outer.session.in_nested_transaction()
        add(outer, "after")
    assert await names(database) == ["after", "before"]


async def test_callbacks_belong_to_the_outer_one(uow_factory: UnitOfWorkFactory) -> None:
    """They run after its end: those of what was kept, and `after_rollback` of what was not."""
    ran: list[str] = []
    async with uow_factory() as outer:
        outer.after_commit(lambda: ran.append("outer"))
        async with uow_factory(nested="join") as inner:
            inner.after_commit(lambda: ran.append("joined"))
            inner.after_rollback(lambda: ran.append("never"))
        async with uow_factory(nested="savepoint") as inner:
            inner.after_commit(lambda: ran.append("kept"))
            with suppress(Swallowed):
                async with inner.savepoint():
                    inner.after_commit(lambda: ran.append("never"))
                    raise Swallowed
        with suppress(Swallowed):
            async with uow_factory(nested="savepoint") as inner:
                inner.after_commit(lambda: ran.append("never"))
                inner.after_rollback(lambda: ran.append("compensated"))
                raise Swallowed
        assert ran == []
    assert ran == ["outer", "joined", "kept", "compensated"]


async def test_callbacks_of_the_outer_unit_in_a_part_that_was_undone(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """`outer.after_rollback` is about the outer unit, wherever it was called."""
    ran: list[str] = []
    async with uow_factory() as outer:
        with suppress(Swallowed):
            async with uow_factory(nested="savepoint") as inner:
                outer.after_rollback(lambda: ran.append("never"))
                inner.after_rollback(lambda: ran.append("inner"))
                raise Swallowed
    assert (outer.state, ran) == ("committed", ["inner"])


async def test_callbacks_of_what_was_undone_in_an_unknown_outcome(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """Only what was rolled back for certain is told: `after_rollback` of the inner unit."""

    def lose(_: object) -> None:
        raise asyncio.CancelledError

    ran: list[str] = []
    with pytest.raises(CommitOutcomeUnknownError):
        async with uow_factory() as outer:
            outer.after_rollback(lambda: ran.append("never"))
            add(outer, "perhaps")
            with suppress(Swallowed):
                async with uow_factory(nested="savepoint") as inner:
                    inner.after_rollback(lambda: ran.append("undone"))
                    raise Swallowed
            assert outer.checked_out is not None
            Guard.of(database.engine.sync_engine.dialect).instead[outer.checked_out.connection] = (
                lose
            )
    assert (outer.state, inner.state, ran) == ("outcome_unknown", "rolled_back", ["undone"])


async def test_callbacks_of_a_joined_unit_that_failed(uow_factory: UnitOfWorkFactory) -> None:
    """The whole is rolled back, so `after_rollback` of both runs, once, after its end."""
    ran: list[str] = []
    with pytest.raises(TransactionAbortedError):
        async with uow_factory() as outer:
            outer.after_rollback(lambda: ran.append("outer"))
            with suppress(Swallowed):
                async with uow_factory(nested="join") as inner:
                    inner.after_commit(lambda: ran.append("never"))
                    inner.after_rollback(lambda: ran.append("inner"))
                    raise Swallowed
            assert ran == []
    assert ran == ["outer", "inner"]


# -- what an inner unit may ask for ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_reading_inside_of_writing(uow_factory: UnitOfWorkFactory, mode: Any) -> None:
    """A read-only unit sees what the outer one has written."""
    async with uow_factory() as outer:
        add(outer, "written")
        for read_only in (True, "snapshot"):
            async with uow_factory(read_only=read_only, nested=mode) as inner:
                assert await inner.session.scalar(select(Item.name)) == "written"


@pytest.mark.parametrize(
    ("around", "inside", "fits"),
    [
        (True, False, False),
        ("snapshot", False, False),
        (True, "snapshot", False),
        ("replica", True, False),
        (True, True, True),
        (True, "replica", True),
        ("replica", "replica", True),
        ("snapshot", True, True),
        ("snapshot", "snapshot", True),
    ],
)
@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_inside_of_reading(
    uow_factory: UnitOfWorkFactory, around: Any, inside: Any, mode: Any, *, fits: bool
) -> None:
    """Refused with the fix where the outer one has less than the inner one needs."""
    async with uow_factory(read_only=around) as outer:
        await outer.session.execute(select(Item))
        if fits:
            async with uow_factory(read_only=inside, nested=mode) as inner:
                assert list(await inner.session.scalars(select(Item))) == []
            return
        with pytest.raises(UnitOfWorkStateError) as caught:
            async with uow_factory(read_only=inside, nested=mode):
                pass
    said = str(caught.value)
    assert f"a unit with read_only={inside!r} inside of one with read_only={around!r}" in said
    assert f"in test_inside_of_reading, with read_only={inside!r}, or leave it first" in said


async def test_an_error_in_a_read_only_unit_has_nothing_to_undo(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """With read_only=True around a savepoint is none, and the outer unit goes on as well."""
    ran: list[str] = []
    async with uow_factory(read_only=True) as outer:
        with pytest.raises(DBAPIError):
            async with uow_factory(read_only=True, nested="savepoint") as inner:
                inner.after_commit(lambda: ran.append("never"))
                inner.after_rollback(lambda: ran.append("undone"))
                await inner.session.execute(text("SELECT nothing FROM nowhere"))
        assert list(await outer.session.scalars(select(Item))) == []
    assert (outer.state, inner.state, ran) == ("committed", "rolled_back", ["undone"])
    assert database.open == {}


async def test_another_isolation_level_inside(uow_factory: UnitOfWorkFactory) -> None:
    """Refused unless it is that of the outer one; nothing of it is lost."""
    level = "SERIALIZABLE"
    async with uow_factory(isolation_level=level) as outer:
        add(outer, "kept")
        async with uow_factory(isolation_level=level.lower(), nested="join"):
            pass
        async with uow_factory(nested="join"):
            pass
        with pytest.raises(UnitOfWorkStateError, match="open the outer one, at "):
            async with uow_factory(isolation_level="READ UNCOMMITTED", nested="join"):
                pass
    assert outer.state == "committed"
    async with uow_factory():
        with pytest.raises(UnitOfWorkStateError, match="isolation_level='SERIALIZABLE'"):
            async with uow_factory(isolation_level=level, nested="savepoint"):
                pass


async def test_options_of_another_engine_inside(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A unit on `engine.execution_options(…)` cannot be a part of one on the engine."""
    other = database.engine.execution_options(schema_translate_map={None: "nowhere"})
    async with uow_factory():
        with pytest.raises(UnitOfWorkStateError, match="other execution options"):
            async with UnitOfWork(other, nested="join"):
                pass


async def test_a_resolvable_unit_inside(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """The outer one then keeps the id of the transaction."""
    database = open_database(postgres_database)
    async with database.engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    uow_factory = UnitOfWorkFactory(database)
    async with uow_factory() as outer, uow_factory(nested="join", resolvable=True) as inner:
        add(inner, "kept")
    assert outer.xid


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_inside_of_a_unit_that_has_failed(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """Its statement failed, so nothing can be added: said before the inner block runs."""
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            with suppress(DBAPIError):
                await outer.session.execute(text("SELECT nothing FROM nowhere"))
            with pytest.raises(TransactionAbortedError):
                async with uow_factory(nested=mode):
                    pytest.fail("it was entered")
    assert outer.state == "rolled_back"
    assert database.open == {}


# -- run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_run_inside_of_a_unit_is_not_repeated(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """Only the whole can be retried: the outer `run` gets the error itself, and does it."""
    calls: list[str] = []

    async def part(uow: UnitOfWork) -> str:
        calls.append("part")
        add(uow, f"part {len(calls)}")
        await uow.session.flush()
        if calls.count("part") == 1:
            raise lost
        return "done"

    async def whole(uow: UnitOfWork) -> str:
        calls.append("whole")
        add(uow, "whole")
        return await uow_factory.run(part, attempts=5, nested=mode)

    lost = DBAPIError("SELECT", None, ConnectionResetError(), connection_invalidated=True)
    assert await uow_factory.run(whole) == "done"
    assert calls == ["whole", "part", "whole", "part"]
    assert await names(database) == ["part 4", "whole"]


async def test_run_inside_hands_its_callbacks_over(uow_factory: UnitOfWorkFactory) -> None:
    """Callbacks that `work` registers run once, with those of the outer unit and after its end."""
    ran: list[str] = []

    async def part(uow: UnitOfWork) -> None:
        uow.after_commit(lambda: ran.append("part"))

    async def failing(uow: UnitOfWork) -> None:
        uow.after_rollback(lambda: ran.append("failing"))
        raise Swallowed

    with pytest.raises(ZeroDivisionError):
        async with uow_factory() as outer:
            outer.after_rollback(lambda: ran.append("outer"))
            with suppress(Swallowed):
                await uow_factory.run(failing, nested="savepoint")
            assert ran == []
            raise ZeroDivisionError
    assert ran == ["outer", "failing"]
    ran.clear()
    async with uow_factory():
        await uow_factory.run(part, nested="savepoint")
        assert ran == []
    assert ran == ["part"]


# -- tasks, cancellation, generators ---------------------------------------------------------


async def test_a_child_task_has_its_own_transaction(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A task that is started inside opens a unit of its own, and cannot use that of its parent."""
    database = open_database(postgres_database, nested="join")
    async with database.engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    uow_factory = UnitOfWorkFactory(database)

    async def child(inner: UnitOfWork) -> None:
        with pytest.raises(UnitOfWorkTaskError):
            _ = inner.session
        async with uow_factory() as own:
            assert own.outer is None
            add(own, "child")

    with pytest.raises(Swallowed):
        async with uow_factory(), uow_factory() as inner:
            add(inner, "parent")
            await asyncio.create_task(child(inner))
            raise Swallowed
    assert await names(database) == ["child"]


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_another_task_that_leaves_the_block(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """It is told, sends nothing, and the whole unit fails."""
    with pytest.raises(TransactionAbortedError):
        async with uow_factory() as outer:
            add(outer, "lost")
            inner = await uow_factory(nested=mode).__aenter__()
            add(inner, "lost as well")
            with pytest.raises(UnitOfWorkTaskError):
                await asyncio.create_task(inner.__aexit__(None, None, None))
    assert outer.state == "rolled_back"
    assert await names(database) == []
    assert database.open == {}


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_a_block_that_two_tasks_leave(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder, mode: Any
) -> None:
    """The second one, which comes while the first one waits, ends nothing around it."""
    with pytest.raises(Swallowed):
        async with uow_factory() as outer, uow_factory(nested="savepoint") as middle:
            inner = await uow_factory(nested=mode).__aenter__()
            add(inner, "lost")
            other = asyncio.create_task(inner.__aexit__(None, None, None))
            with suppress(UnitOfWorkStateError, TransactionAbortedError):
                await inner.__aexit__(None, None, None)
            with suppress(UnitOfWorkTaskError):
                await other
            assert middle.state == "active"
            raise Swallowed
    assert outer.state == "rolled_back"
    assert [each.topic for each in events.topic("uow.leave").events] == ["uow.leave"] * 2
    assert await names(database) == []


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_a_timeout_around_the_inner_block(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """A cancellation that becomes a TimeoutError between the blocks: joined is all or nothing."""
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            add(outer, "outer")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit, uow_factory(nested=mode) as inner:
                    add(inner, "inner")
                    await inner.session.flush()
                    limit.reschedule(0)
                    await asyncio.Event().wait()
            add(outer, "later")
    assert outer.state == ("committed" if mode == "savepoint" else "rolled_back")
    assert await names(database) == (["later", "outer"] if mode == "savepoint" else [])


async def rows(uow_factory: UnitOfWorkFactory, mode: Any) -> AsyncGenerator[int, None]:
    """Yield numbers from within a unit that writes."""
    async with uow_factory(nested=mode) as uow:
        add(uow, "by a generator")
        await uow.session.flush()
        for number in range(3):
            yield number


@pytest.mark.parametrize("mode", ["join", "savepoint"])
@pytest.mark.parametrize("later", [True, False])
async def test_a_generator_left_by_break(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any, *, later: bool
) -> None:
    """Its unit is left by nobody, or by a task of the event loop: nothing is committed in half."""
    generator = rows(uow_factory, mode)
    with pytest.raises(TransactionAbortedError) as caught:
        async with uow_factory() as outer:
            add(outer, "outer")
            async for _ in generator:
                break
            if later:
                await asyncio.create_task(generator.aclose())
    assert ("still open" in str(caught.value.__cause__)) is not later
    await generator.aclose()
    assert await names(database) == []


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_a_generator_that_is_closed(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """With `aclosing` its unit is left early in its own task: undone as one that raised."""
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            add(outer, "outer")
            async with aclosing(rows(uow_factory, mode)) as generator:
                async for _ in generator:
                    break
    assert outer.state == ("committed" if mode == "savepoint" else "rolled_back")
    assert await names(database) == (["outer"] if mode == "savepoint" else [])


@pytest.mark.parametrize("mode", ["join", "savepoint"])
async def test_they_are_left_in_order(
    database: Database, uow_factory: UnitOfWorkFactory, mode: Any
) -> None:
    """A unit that is left while one inside of it is open names that one, and is undone."""
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            add(outer, "outer")
            first = await uow_factory(nested=mode).__aenter__()
            second = await uow_factory(nested=mode).__aenter__()  # second
            add(second, "lost")
            with pytest.raises(UnitOfWorkStateError, match=f":{line('second')} in .*still open"):
                await first.__aexit__(None, None, None)
            await second.__aexit__(None, None, None)
    assert outer.state == ("committed" if mode == "savepoint" else "rolled_back")
    assert await names(database) == (["outer"] if mode == "savepoint" else [])


async def test_an_open_unit_may_be_finished_during_a_stop(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """The stop waits for the outer unit, so what that needs is not refused."""
    async with uow_factory() as outer:
        database.state = "stopping"
        async with uow_factory(nested="join") as inner:
            add(inner, "kept")
    assert outer.state == "committed"
    with pytest.raises(ManagerClosedError):
        await uow_factory(nested="join").__aenter__()
    assert await names(database) == ["kept"]


@pytest.mark.filterwarnings("ignore:task .* ended without leaving its unit")
async def test_a_unit_that_is_never_left_takes_the_inner_one_along(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """Both are over when the outer one is abandoned."""
    units: list[UnitOfWork] = []

    async def forget() -> None:
        units.append(await uow_factory().__aenter__())
        units.append(await uow_factory(nested="join").__aenter__())
        add(units[1], "lost")

    await asyncio.create_task(forget())
    database.open.abandon()
    assert [unit.state for unit in units] == ["rolled_back", "joined"]
    events.assert_event("uow.leave", outcome="failed")
    assert database.open == {}


# -- the end ---------------------------------------------------------------------------------


async def test_a_refused_commit_concerns_both(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """What a deferred constraint refuses is the error of the outer block, and of no other."""
    with pytest.raises(IntegrityError):
        async with uow_factory() as outer:
            add(outer, "lost")
            async with uow_factory(nested="savepoint") as inner:
                inner.session.add(Child(item=4711))
    assert (outer.state, inner.state) == ("rolled_back", "joined")
    assert await names(database) == []


async def test_every_driver(any_database_url: URL, open_database: Callable[..., Database]) -> None:
    """Both ways work on each driver, in a file and in memory."""
    database = open_database(any_database_url)
    table = "CREATE TABLE nested_test__word (word VARCHAR(20) UNIQUE)"
    write = text("INSERT INTO nested_test__word VALUES (:word)")
    async with database.engine.begin() as connection:
        await connection.execute(text(table))
    uow_factory = UnitOfWorkFactory(database)
    async with uow_factory() as outer:
        await outer.session.execute(write, {"word": "outer"})
        async with uow_factory(nested="join") as inner:
            await inner.connection.execute(write, {"word": "joined"})
        async with uow_factory(nested="savepoint") as inner:
            await inner.session.execute(write, {"word": "kept"})
        with suppress(IntegrityError):
            async with uow_factory(nested="savepoint") as inner:
                await inner.session.execute(write, {"word": "undone"})
                await inner.session.execute(write, {"word": "outer"})
    with suppress(TransactionAbortedError):
        async with uow_factory() as outer:
            with suppress(Swallowed):
                async with uow_factory(nested="join") as inner:
                    await inner.session.execute(write, {"word": "failed"})
                    raise Swallowed
    async with uow_factory(read_only=True) as uow:
        words = set(await uow.session.scalars(text("SELECT word FROM nested_test__word")))
    assert words == {"outer", "joined", "kept"}
