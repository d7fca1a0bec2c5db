"""Which runner units have, and what both of them promise."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import aiosqlite
import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.util import await_only

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_at
from db_manager.dialects.postgresql.asyncpg import Asyncpg
from db_manager.dialects.sqlite.aiosqlite import Aiosqlite
from db_manager.errors import ConfigError
from db_manager.running.choose import VARIABLE, choose_runner
from db_manager.running.fast.greenlets import Worker
from db_manager.running.fast.runner import Fast
from db_manager.running.plain import Plain
from db_manager.running.port import Runner
from db_manager.unit.uow import UnitOfWork

MAKERS = pytest.mark.parametrize("make", [Plain, partial(Fast, in_place=False)])


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the person who runs the tests pick the runner."""
    monkeypatch.delenv(VARIABLE, raising=False)


async def later(value: int) -> int:
    """Return *value* after a turn of the event loop."""
    await asyncio.sleep(0)
    return value


class Ending:
    """An end that waits once, and notes what becomes of it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def finish(self) -> None:
        """Wait for a turn of the loop."""
        try:
            await_only(later(1))
        except asyncio.CancelledError:
            self.log.append("cancelled")
        self.log.append("finished")

    def awaits_commit(self) -> bool:
        """Return False: it does not come to COMMIT."""
        return False

    def is_statement(self, awaited: object) -> bool:
        """Return False: nothing of the driver's is awaited."""
        del awaited
        return False

    def expire(self) -> None:
        """Note it."""
        self.log.append("expired")

    def moved(self) -> None:
        """Note it."""
        self.log.append("moved")

    def give_up(self) -> None:
        """Note it."""
        self.log.append("gave up")


@MAKERS
async def test_a_function_is_run_to_its_result(make: Callable[[], Runner]) -> None:
    """A synchronous function gets its arguments and what it waits for; its error is raised."""

    def divide(number: int, *, by: int) -> float:
        return await_only(later(number)) / by

    runner = make()
    assert await runner.run(divide, 6, by=2) == 3
    with pytest.raises(ZeroDivisionError):
        await runner.run(divide, 6, by=0)


@MAKERS
async def test_an_end_outlasts_a_cancellation(make: Callable[[], Runner]) -> None:
    """Cancelled while it waits, the task hears of it when the end has come to its end."""
    ending, runner = Ending(), make()
    task = asyncio.create_task(runner.finish(ending, 5))
    await asyncio.sleep(0)
    task.cancel("stop")
    interrupted = await task
    assert ending.log[-1:] == ["finished"]
    assert "cancelled" not in ending.log
    assert interrupted is not None
    assert interrupted.args == ("stop",)


@MAKERS
async def test_an_end_whose_task_never_began_is_finished_all_the_same(
    make: Callable[[], Runner],
) -> None:
    """A loop that closes cancels every task, also the one that was made for the end just now."""
    ending, runner = Ending(), make()
    before = asyncio.all_tasks()
    task = asyncio.create_task(runner.finish(ending, 5))
    await asyncio.sleep(0)
    for each in asyncio.all_tasks() - before:
        each.cancel()
    assert isinstance(await task, asyncio.CancelledError)
    assert ending.log[-1] == "finished"
    assert "moved" not in ending.log


@pytest.mark.parametrize(
    "name",
    ["postgresql+asyncpg", "sqlite+aiosqlite", "postgresql+psycopg", "mysql+asyncmy"],
)
async def test_units_have_the_fast_runner(name: str) -> None:
    """With the packages that are installed here nothing is missing, on no driver."""
    releases = dialect_at(URL.create(name)).releases
    assert isinstance(choose_runner(name.partition("+")[2], releases)(), Fast)


async def test_the_environment_asks_for_the_plain_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DB_MANAGER_RUNNER=plain` is all that it takes."""
    monkeypatch.setenv(VARIABLE, "plain")
    assert isinstance(choose_runner("asyncpg", Asyncpg.releases)(), Plain)


async def test_a_database_has_the_runner_that_was_picked(runner: str, database: Database) -> None:
    """The runner is picked when the database is opened, and made in the loop of its units."""
    async with UnitOfWork(database):
        pass
    assert type(database.runner) is {"fast": Fast, "plain": Plain}[runner]


def test_an_unknown_runner_is_refused(
    sqlite_database: URL, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong value is told with the right ones when the database is opened, before any unit."""
    monkeypatch.setenv(VARIABLE, "quick")
    with pytest.raises(ConfigError, match="DB_MANAGER_RUNNER is 'quick': it must be 'fast' or 'pl"):
        open_database(sqlite_database)


def test_a_sqlalchemy_that_does_not_know_our_greenlets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`await_` of SQLAlchemy looks for a mark; should that change, units run plainly."""
    monkeypatch.delattr(Worker, "__sqlalchemy_greenlet_provider__")
    assert choose_runner("asyncpg", Asyncpg.releases) is Plain
    said = (
        "units on asyncpg use the plain runner, which is slower: SQLAlchemy does not recognise its "
    )
    assert caplog.record_tuples == [("db_manager.running", logging.WARNING, f"{said}greenlets")]


@pytest.mark.parametrize(("package", "dialect"), [(asyncpg, Asyncpg), (aiosqlite, Aiosqlite)])
def test_a_driver_whose_wait_for_commit_was_not_read(
    package: object,
    dialect: type[Dialect],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A release that nobody looked at may cancel the task that waits: units run plainly there."""
    monkeypatch.setattr(package, "__version__", "0.320.1")
    name = package.__name__  # type: ignore[attr-defined]  # it is a module
    assert choose_runner(name, dialect.releases) is Plain
    said = f"{name} 0.320.1 has not been reviewed, only that of {', '.join(dialect.releases)}"
    assert f"the COMMIT of {said}" in caplog.text


class Row(Base):
    """A row."""

    __tablename__ = "runners_test__row"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def test_the_last_flush_needs_no_task(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dialects know in which coroutines SQLAlchemy executes statements, one or many."""
    if database.engine.dialect.name == "sqlite" and sqlalchemy.__version__.startswith("2.0."):
        pytest.skip("not run: SQLAlchemy 2.0 awaits a cursor of aiosqlite in parts, in a task")

    def fail(*_: object, **_more: object) -> None:
        raise AssertionError

    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["runners_test__row"].create)
    monkeypatch.setattr("db_manager.running.fast.runner.shield", fail)
    async with UnitOfWork(database) as uow:
        uow.session.add_all([Row(id=i, name="new") for i in range(3)])
    async with UnitOfWork(database) as uow:
        for row in await uow.session.scalars(select(Row)):
            row.name = "old"
    async with UnitOfWork(database) as uow:
        await uow.session.delete(await uow.session.get(Row, 1))
    async with UnitOfWork(database) as uow:
        assert list(await uow.session.scalars(select(Row.name))) == ["old", "old"]
