"""What listeners do at the end of a unit comes before COMMIT, or changes nothing: U24."""

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import ForeignKey, Integer, LargeBinary, String, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Mapped, Session, mapped_column
from support.accounting import accounted

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import CommitOutcomeUnknownError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]


class Audited(Base):
    """A row that somebody writes."""

    __tablename__ = "audit_test__row"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class Audit(Base):
    """What a listener adds to it."""

    __tablename__ = "audit_test__audit"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    said: Mapped[str] = mapped_column(String(20), default="")


class Child(Base):
    """A row whose parent is asked for at COMMIT."""

    __tablename__ = "audit_test__child"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    parent: Mapped[int] = mapped_column(
        ForeignKey("audit_test__row.id", deferrable=True, initially="DEFERRED")
    )
    picture: Mapped[bytes] = mapped_column(LargeBinary, default=b"")


async def make_tables(database: Database, *models: type[Base]) -> None:
    """Create the tables of *models*, and the one row that the audit's key collides with."""
    tables = [Base.metadata.tables[str(model.__tablename__)] for model in models]
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda c: Base.metadata.create_all(c, tables))
    if Audit in models:
        async with UnitOfWork(database) as uow:
            uow.session.add(Audit(id=1))


async def count(database: Database, model: type[Base] = Audited) -> int:
    """Return how many rows are there."""
    async with UnitOfWork(database) as uow:
        found = await uow.session.scalar(text(f"SELECT count(*) FROM {model.__tablename__}"))
    assert isinstance(found, int)
    return found


# -- who listens, and what goes wrong ------------------------------------------------------------


@contextmanager
def listening(session: Session, name: str, act: Callable[[Session], None]) -> Iterator[None]:
    """Let a listener *act* once, at the event *name* of the session."""
    acted = False

    def once(heard: Session, *_: object) -> None:
        nonlocal acted
        if not acted:
            acted = True
            act(heard)

    event.listen(session, name, once)
    yield
    event.remove(session, name, once)


def collides(session: Session) -> None:
    """Add a row that is there already."""
    session.add(Audit(id=1))


def raises(error: BaseException) -> Callable[[Session], None]:
    """Return a listener that raises *error*."""

    def act(_session: Session) -> None:
        raise error

    act.__name__ = type(error).__name__
    return act


FAULTS = [
    ("collides", collides),
    *(
        (type(error).__name__, raises(error))
        for error in (
            ConnectionError("of a listener"),
            TimeoutError("of a listener"),
            asyncio.CancelledError("of a listener"),
            asyncpg.InternalClientError("of a listener"),
            asyncpg.ConnectionDoesNotExistError("of a listener"),
            OSError(5, "of a listener"),
            ValueError("of a listener"),
        )
    ),
]
BEFORE = ["after_flush", "after_flush_postexec", "before_commit", "before_flush"]


@pytest.mark.parametrize("name", BEFORE)
async def test_a_listener_that_fails_before_commit_rolls_back(
    url: URL, name: str, row: Row
) -> None:
    """U24: whatever it raises, nothing is written, and nobody hears of a commit."""
    heard: list[str] = []
    async with accounted(url, pool_size=1, max_overflow=0) as database:
        await make_tables(database, Audited, Audit)
        for fault, act in FAULTS:
            unit = UnitOfWork(database)
            with pytest.raises(BaseException) as caught:  # noqa: PT011 -- each class in its turn
                async with unit:
                    unit.after_commit(lambda: heard.append("committed"))
                    unit.after_rollback(lambda: heard.append("rolled back"))
                    unit.session.add(Audited(id=1))
                    with listening(unit.session.sync_session, name, act):
                        await unit.__aexit__(None, None, None)
            assert type(caught.value).__name__ == ("IntegrityError" if act is collides else fault)
            assert (unit.state, await count(database)) == ("rolled_back", 0)
        assert heard == ["rolled back"] * len(FAULTS)
    row(
        "U24",
        load=f"{url.drivername}: {name} fails in {len(FAULTS)} ways",
        result="rolled_back, 0 rows, its error; after_rollback ran",
    )


@pytest.mark.parametrize("name", ["after_flush", "before_commit"])
async def test_a_connection_lost_in_a_listener_rolls_back(
    postgres_database: URL, name: str, row: Row
) -> None:
    """U24: a backend that dies under a listener's INSERT is no unknown outcome."""
    for driver in ("asyncpg", "psycopg"):
        url = postgres_database.set(drivername=f"postgresql+{driver}")
        async with accounted(url, pool_size=2) as database:
            if driver == "asyncpg":
                await make_tables(database, Audited, Audit)

            def die(session: Session) -> None:
                session.connection().execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

            unit = UnitOfWork(database)
            with pytest.raises(DBAPIError):
                async with unit:
                    unit.session.add(Audited(id=1))
                    with listening(unit.session.sync_session, name, die):
                        await unit.__aexit__(None, None, None)
            assert (unit.state, await count(database)) == ("rolled_back", 0)
        row("U24", load=f"{driver}: {name}, backend gone", result="rolled_back, 0 rows, the error")


@pytest.mark.parametrize("kind", ["commit", "handle_error"])
async def test_a_listener_of_the_engine_is_no_answer(url: URL, kind: str, row: Row) -> None:
    """U24: an engine's listener that raises before COMMIT is sent rolls the unit back."""
    async with accounted(url, pool_size=1, max_overflow=0) as database:
        refused = kind == "handle_error" and url.get_backend_name() != "mysql"
        await make_tables(database, Audited, *((Child,) if refused else ()))
        sync = database.engine.sync_engine

        def angry(*_: object) -> None:
            raise ConnectionResetError("of a listener")

        event.listen(sync, kind, angry)
        unit = UnitOfWork(database)
        try:
            async with unit:
                await unit.session.execute(text("INSERT INTO audit_test__row VALUES (1)"))
                if refused:  # by the server, and the listener puts its own error in the place
                    await unit.session.execute(
                        text("INSERT INTO audit_test__child VALUES (1, 7, :picture)"),
                        {"picture": b""},
                    )
        except ConnectionResetError:
            assert unit.state is UnitState.ROLLED_BACK
        else:
            assert unit.state is UnitState.COMMITTED
        event.remove(sync, kind, angry)
        assert await count(database) == int(unit.state is UnitState.COMMITTED)
        assert (unit.state is UnitState.COMMITTED) is (kind == "handle_error" and not refused)
    row("U24", load=f"{url.drivername}: {kind} of the engine", result=f"{unit.state}, as its rows")


async def test_a_refused_commit_leaves_nothing_open(url: URL, row: Row) -> None:
    """U24: a constraint that is checked at COMMIT rolls back, and the next units are well."""
    if url.get_backend_name() == "mysql":
        return  # it checks each statement
    async with accounted(url, pool_size=1, max_overflow=0) as database:
        await make_tables(database, Audited, Child)
        closed: list[Any] = []
        database.bus.subscribe("uow.close", closed.append)
        for _ in range(3):
            unit = UnitOfWork(database)
            with pytest.raises(IntegrityError):
                async with unit:
                    await unit.session.execute(
                        text("INSERT INTO audit_test__child VALUES (1, 7, :picture)"),
                        {"picture": b""},
                    )
            assert unit.state is UnitState.ROLLED_BACK
            assert (closed[-1].outcome, closed[-1].statements) == ("rolled_back", 1)
            assert await count(database, Child) == 0
        async with UnitOfWork(database) as uow:
            uow.session.add(Audited(id=1))
        assert await count(database) == 1
    row("U24", load=f"{url.drivername}: COMMIT refused 3 ×", result="rolled_back, next units well")


async def test_a_full_disk_at_commit_leaves_nothing_open(sqlite_database: URL, row: Row) -> None:
    """U24: SQLite's COMMIT that finds no room rolls back and gives the file's lock back."""
    async with accounted(sqlite_database, pool_size=1, max_overflow=0) as database:
        await make_tables(database, Audited, Child)
        async with UnitOfWork(database) as uow:
            uow.session.add(Audited(id=1))
        unit = UnitOfWork(database)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with pytest.raises((DBAPIError, CommitOutcomeUnknownError)):
                async with unit:
                    # Its pages stay in SQLite's cache until COMMIT.
                    unit.session.add(Child(id=1, parent=1, picture=b"." * 1_000_000))
                    await unit.session.flush()
                    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        there = await count(database, Child)
        assert (unit.state, there) == (UnitState.ROLLED_BACK, 0)
        async with UnitOfWork(database) as uow:  # the lock is free
            uow.session.add(Child(id=2, parent=1))
    row("U24", load="sqlite: disk full at COMMIT", result="rolled_back, 0 rows, next unit well")


async def test_plain_sessions_commit_is_not_told_apart(sqlite_database: URL) -> None:
    """U24, the wrong way: an error of Session.commit() tells not whether COMMIT was sent."""
    async with accounted(sqlite_database) as database:
        await make_tables(database, Audited)
        seen: list[int] = []
        for name in ("before_commit", "after_commit"):
            async with async_sessionmaker(database.engine)() as session:
                session.add(Audited(id=len(seen) + 1))
                with (
                    listening(session.sync_session, name, raises(ConnectionError())),
                    pytest.raises(ConnectionError),
                ):
                    await session.commit()
            seen.append(await count(database))
        assert seen == [0, 1]


async def test_a_listener_after_commit_changes_nothing(url: URL, row: Row) -> None:
    """U24: what a listener raises once COMMIT is answered is reported, and the rows are there."""
    events: list[Any] = []
    async with accounted(url) as database:
        await make_tables(database, Audited, Audit)
        database.bus.subscribe("uow.callback_failed", events.append)
        for number, (_, act) in enumerate(FAULTS[1:]):
            unit = UnitOfWork(database)
            async with unit:
                unit.session.add(Audited(id=number))
                event.listen(unit.session.sync_session, "after_commit", act)
            assert unit.state is UnitState.COMMITTED
        assert await count(database) == len(events) == len(FAULTS) - 1
    row("U24", load=f"{url.drivername}: after_commit raises", result="committed, reported")
