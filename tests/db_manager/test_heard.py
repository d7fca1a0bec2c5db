"""A session of a unit ends in the short way; as soon as somebody listens, as SQLAlchemy's does."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Mapped, Session, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.errors import UnitOfWorkStateError
from db_manager.lanes.heard import shared_record
from db_manager.lanes.session import SyncUnitSession
from db_manager.unit.factory import UnitOfWorkFactory

pytestmark = pytest.mark.usefixtures("runner")


class Leaf(Base):
    """A row."""

    __tablename__ = "heard_test__leaf"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
async def units(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with two rows."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["heard_test__leaf"].create)
    units = UnitOfWorkFactory(database)
    async with units() as uow:
        uow.session.add_all([Leaf(id=1, name="one"), Leaf(id=2, name="two")])
    return units


async def names(units: UnitOfWorkFactory) -> list[str]:
    """Return what is in the table."""
    async with units() as uow:
        return list(await uow.session.scalars(select(Leaf.name).order_by(Leaf.id)))


def test_sessions_share_what_nobody_listens_to() -> None:
    """SQLAlchemy still has the names on which that rests; without them each has its own record."""
    assert shared_record(SyncUnitSession) is not None
    assert SyncUnitSession()._is_clean()


async def test_a_listener_of_one_session_hears_no_other(units: UnitOfWorkFactory) -> None:
    """It hears its own session from then on, also once; removed, it hears nothing."""
    heard: list[Session] = []

    def never(_: Session) -> None:
        raise AssertionError

    async with units() as uow:
        session = uow.session.sync_session
        event.listen(session, "after_flush", lambda session, _: heard.append(session))
        event.listen(session, "before_flush", lambda *_: heard.append(session), once=True)
        event.listen(session, "before_commit", never)
        event.remove(session, "before_commit", never)
        uow.session.add(Leaf(id=3, name="three"))
    assert heard == [session, session]
    assert await names(units) == ["one", "two", "three"]
    async with units() as other:
        other.session.add(Leaf(id=4, name="four"))
        assert not other.session.sync_session.is_heard()
    assert len(heard) == 2


@pytest.mark.parametrize("kind", [Session, SyncUnitSession])
async def test_a_listener_of_the_class_is_heard_by_a_session_that_is_open(
    units: UnitOfWorkFactory, kind: type[Session]
) -> None:
    """Who listens to all sessions hears one that was there before, at its COMMIT."""
    told: list[Session] = []

    def tell(session: Session) -> None:
        told.append(session)

    async with units() as uow:
        session = uow.session.sync_session
        uow.session.add(Leaf(id=3, name="three"))
        event.listen(kind, "after_commit", tell)
    event.remove(kind, "after_commit", tell)
    assert told == [session]


@pytest.mark.parametrize("heard", [False, True])
async def test_objects_end_alike(units: UnitOfWorkFactory, *, heard: bool) -> None:
    """Added, read, changed and deleted objects are what they are after SQLAlchemy's own commit."""
    async with units() as uow:
        read, gone = await uow.session.get(Leaf, 1), await uow.session.get(Leaf, 2)
        added = Leaf(id=3, name="three")
        assert read is not None
        read.name = "uno"
        await uow.session.delete(gone)
        uow.session.add(added)
        if heard:
            event.listen(uow.session.sync_session, "after_commit", lambda _: None)
    assert [inspect(each).detached for each in (read, added)] == [True, True]
    assert (inspect(gone).persistent, inspect(gone).was_deleted) == (False, True)
    assert (read.name, added.name) == ("uno", "three")  # readable, and not expired
    assert await names(units) == ["uno", "three"]


@pytest.fixture
def at_insert() -> Iterator[list[Any]]:
    """Functions that a listener of the mapper calls, with its connection, for each INSERT."""
    calls: list[Any] = []

    def call(_mapper: object, connection: Connection, leaf: Leaf) -> None:
        for each in tuple(calls):
            each(connection, leaf)

    event.listen(Leaf, "after_insert", call)
    yield calls
    event.remove(Leaf, "after_insert", call)


@pytest.mark.filterwarnings("ignore:Usage of the 'Session.add")
async def test_what_a_mapper_adds_while_it_writes_is_written(
    units: UnitOfWorkFactory, at_insert: list[Any]
) -> None:
    """The last flush is not the last one when it leaves something behind."""

    def add(_: Connection, leaf: Leaf) -> None:
        at_insert.clear()
        session = Session.object_session(leaf)
        assert session is not None
        session.add(Leaf(id=4, name="four"))

    at_insert.append(add)
    async with units() as uow:
        uow.session.add(Leaf(id=3, name="three"))
    assert await names(units) == ["one", "two", "three", "four"]


async def test_a_mapper_cannot_commit_while_the_session_writes(
    units: UnitOfWorkFactory, at_insert: list[Any]
) -> None:
    """COMMIT in the middle of the last flush is refused, and nothing is written."""
    at_insert.append(lambda connection, _: connection.commit())
    with pytest.raises(UnitOfWorkStateError):
        async with units() as uow:
            uow.session.add_all([Leaf(id=3, name="three"), Leaf(id=4, name="four")])
    assert uow.state == "rolled_back"
    at_insert.clear()
    assert await names(units) == ["one", "two"]
