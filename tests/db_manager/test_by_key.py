"""Objects that a unit only reads: got by key as SQLAlchemy gets them, without a transaction."""

from typing import Any

import pytest
from sqlalchemy import ForeignKey, delete, event, inspect, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    registry,
    relationship,
)
from sqlalchemy.orm.exc import DetachedInstanceError

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.lanes.by_key import by_key
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")


class Shelf(Base):
    """What is got by its key."""

    __tablename__ = "by_key_test__shelf"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    boxes: Mapped[list["Box"]] = relationship(lambda: Box, lazy="selectin", order_by=lambda: Box.id)


class Box(Base):
    """What belongs to it."""

    __tablename__ = "by_key_test__box"

    id: Mapped[int] = mapped_column(primary_key=True)
    shelf: Mapped[int] = mapped_column(ForeignKey(Shelf.id))


class Pair(Base):
    """A row with two keys."""

    __tablename__ = "by_key_test__pair"

    left: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    right: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Animal(Base):
    """A row that may be of a class below."""

    __tablename__ = "by_key_test__animal"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": 0}  # noqa: RUF012 -- SQLAlchemy's

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[int]


class Cat(Animal):
    """One of them."""

    __mapper_args__ = {"polymorphic_identity": 1}  # noqa: RUF012 -- SQLAlchemy's


@pytest.fixture
async def units(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with a row in each table."""
    tables = [Base.metadata.tables[each.__tablename__] for each in (Shelf, Box, Pair, Animal)]
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables)
    units = UnitOfWorkFactory(database)
    async with units() as uow:
        shelf = Shelf(id=1, name="one", boxes=[Box(), Box()])
        uow.session.add_all([shelf, Pair(left=1, right=2), Cat(id=1)])
    return units


class _Said(Session):
    """A session that keeps what it would execute."""

    said: Any = None

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep it."""
        self.said = (statement, args, kwargs)
        raise InvalidRequestError


def test_the_statement_is_the_one_of_sqlalchemy() -> None:
    """It has the same key in the cache of compiled statements, the same options and parameter."""
    session = _Said()
    with pytest.raises(InvalidRequestError):
        session.get(Shelf, 7)
    statement, _, told = session.said
    known = by_key(Shelf)
    assert known is not None  # else SQLAlchemy has changed, and each `get` makes its own again
    assert known.mapper is inspect(Shelf)
    assert known.statement._generate_cache_key() == statement._generate_cache_key()
    assert told["params"] == {known.parameter: 7}
    assert dict(told["execution_options"]) == dict(known.options)


@pytest.mark.parametrize("kind", [Pair, Animal, Cat, int])
def test_what_depends_on_more_than_the_class_is_left_to_sqlalchemy(kind: type) -> None:
    """Two keys, a class with others above or below it, and what is no model."""
    assert by_key(kind) is None


async def test_a_class_that_is_mapped_anew_is_got_by_its_new_mapper(
    units: UnitOfWorkFactory,
) -> None:
    """As in the tests of a bot that makes its models for each test."""

    class Thing:
        name: str

    for registered in (registry(), registry()):
        registered.map_imperatively(Thing, Shelf.__table__)
        async with units(read_only=True) as uow:
            thing = await uow.session.get(Thing, 1)
        assert thing is not None
        assert thing.name == "one"
        registered.dispose()


@pytest.mark.parametrize("read_only", [False, True])
async def test_objects_are_got_as_by_any_session(units: UnitOfWorkFactory, read_only: bool) -> None:
    """With what is loaded along with them; nothing where there is no row; each once."""
    async with units(read_only=read_only) as uow:
        session = uow.session
        shelf = await session.get(Shelf, 1)
        assert shelf is not None
        assert [box.shelf for box in shelf.boxes] == [1, 1]
        assert await session.get(Shelf, 2) is None
        assert await session.get(Shelf, 1) is shelf
        assert isinstance(await session.get(Animal, 1), Cat)
        pair = await session.get(Pair, (1, 2))
        assert pair is await session.get(Pair, {"left": 1, "right": 2})
        assert not session.in_transaction()  # nothing was changed, so nothing is to be undone
    assert shelf.name == "one"  # it stays readable


async def test_what_was_read_is_read_again_when_asked(units: UnitOfWorkFactory) -> None:
    """An expired object is read again by `get`, and `populate_existing` reads it in any case."""
    async with units() as uow:
        shelf = await uow.session.get(Shelf, 1)
        assert shelf is not None
        await uow.connection.execute(text("UPDATE by_key_test__shelf SET name = 'two'"))
        assert (await uow.session.get(Shelf, 1)) is shelf
        assert shelf.name == "one"
        await uow.session.get(Shelf, 1, populate_existing=True)
        assert shelf.name == "two"
        await uow.connection.execute(text("UPDATE by_key_test__shelf SET name = 'three'"))
        uow.session.expire(shelf)
        assert (await uow.session.get(Shelf, 1)) is shelf
        assert shelf.name == "three"


async def test_a_change_of_what_was_read_begins_and_is_written(units: UnitOfWorkFactory) -> None:
    """It is written before the next statement of either lane, and at the end."""
    name = select(Shelf.__table__.c.name)
    async with units() as uow:
        shelf = await uow.session.get(Shelf, 1)
        assert shelf is not None
        assert not uow.session.in_transaction()
        shelf.name = "two"
        assert uow.session.in_transaction()
        assert (await uow.session.scalars(select(Shelf.name))).one() == "two"
        shelf.name = "three"
    async with units(read_only=True) as uow:
        assert await uow.session.scalar(name) == "three"


async def test_a_savepoint_undoes_changes_of_what_was_read_before(
    units: UnitOfWorkFactory,
) -> None:
    """Also of an object that was read before the savepoint, when nothing had begun yet."""
    async with units() as uow:
        shelf = await uow.session.get(Shelf, 1)
        assert shelf is not None
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                shelf.name = "two"
                await uow.session.flush()
                raise ZeroDivisionError
        await uow.session.refresh(shelf)
        assert shelf.name == "one"
    assert uow.state == "committed"


async def test_what_was_read_is_expired_by_a_rollback(units: UnitOfWorkFactory) -> None:
    """As in any session: what it says may never have been in the database."""
    shelf = None
    with pytest.raises(ZeroDivisionError):
        async with units() as uow:
            shelf = await uow.session.get(Shelf, 1)
            raise ZeroDivisionError
    assert shelf is not None
    with pytest.raises(DetachedInstanceError):
        _ = shelf.name


async def test_an_object_that_a_statement_deletes_is_back_after_a_savepoint(
    units: UnitOfWorkFactory,
) -> None:
    """As in any session, also if the object was read before the savepoint."""
    async with units() as uow:
        pair = await uow.session.get(Pair, (1, 2))
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                await uow.session.execute(delete(Pair))
                assert pair not in uow.session
                raise ZeroDivisionError
        assert pair in uow.session


async def test_an_object_that_a_statement_deletes_is_none_that_was_deleted_after_a_rollback(
    units: UnitOfWorkFactory,
) -> None:
    """The session begins with such a statement, and not with its first change of an object."""
    pair = None
    with pytest.raises(ZeroDivisionError):
        async with units() as uow:
            pair = await uow.session.get(Pair, (1, 2))
            await uow.session.execute(delete(Pair))
            assert inspect(pair).deleted
            raise ZeroDivisionError
    assert not inspect(pair).was_deleted


async def test_a_listener_hears_the_statement_of_get(units: UnitOfWorkFactory) -> None:
    """What SQLAlchemy tells of statements of the ORM, it tells of this one."""
    heard: list[str] = []

    def hear(state: ORMExecuteState) -> None:
        heard.append(str(state.statement))

    async with UnitOfWork(units.engine) as uow:
        event.listen(uow.session.sync_session, "do_orm_execute", hear)
        assert await uow.session.get(Shelf, 1) is not None
        assert uow.session.in_transaction()  # as SQLAlchemy's, once somebody listens
    assert ["shelf" in heard[0], "box" in heard[1]] == [True, True]
