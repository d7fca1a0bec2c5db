"""`SqlStorage` keeps what aiogram's own storage keeps, and does it as a part of the open unit."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import BaseStorage, StorageKey
from aiogram.fsm.storage.memory import MemoryStorage
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from db_manager.base import Base
from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.delivery.fsm import FsmRow, SqlStorage
from db_manager.engine.create import create_engine
from db_manager.errors import DbManagerError, TransactionAbortedError, UnitOfWorkStateError
from db_manager.unit.factory import UnitOfWorkFactory

KEY = StorageKey(bot_id=42, chat_id=-1_001_234_567_890, user_id=7_000_000_000)
OTHERS = [
    replace(KEY, bot_id=43),
    replace(KEY, chat_id=1),
    replace(KEY, user_id=1),
    replace(KEY, thread_id=5),
    replace(KEY, business_connection_id="b"),
    replace(KEY, destiny="other"),
    replace(KEY, destiny="Other"),
    replace(KEY, destiny="other "),
]
DATA = {"name": "Ada", "tea": ["черный", "\u0000", "🍵"], "n": 1.5, "none": None, "in": {"a": 1}}


class Form(StatesGroup):
    """The steps of a form."""

    name = State()
    age = State()


@pytest.fixture(params=["aiosqlite", "memory", "asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for every driver that is supported."""
    if request.param == "memory":
        return URL.create("sqlite+aiosqlite", database=":memory:")
    backend = "sqlite" if request.param == "aiosqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{backend}_database")
    return found if backend == "sqlite" else found.set(drivername=f"postgresql+{request.param}")


@pytest.fixture
async def database(url: URL, open_database: Callable[..., Database]) -> Database:
    """A database with the table, once for every driver."""
    opened = open_database(url)
    async with opened.engine.begin() as connection:
        tables = [Base.metadata.tables[FsmRow.__tablename__]]
        await connection.run_sync(Base.metadata.create_all, tables)
    return opened


@pytest.fixture
def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on it."""
    return UnitOfWorkFactory(database)


@pytest.fixture
def storage(uow_factory: UnitOfWorkFactory) -> SqlStorage:
    """Ours."""
    return SqlStorage(uow_factory)


async def rows(uow_factory: UnitOfWorkFactory) -> int:
    """Return how many rows there are."""
    async with uow_factory(read_only=True) as uow:
        return await uow.session.scalar(select(func.count()).select_from(FsmRow)) or 0


# -- what every storage does ---------------------------------------------------------------------


@pytest.fixture(params=["aiogram's", "ours"])
def any_storage(request: pytest.FixtureRequest, storage: SqlStorage) -> BaseStorage:
    """Each storage."""
    return storage if request.param == "ours" else MemoryStorage()


async def test_what_was_set_is_there(any_storage: BaseStorage) -> None:
    """States of any kind and data of any depth come back; at first there is nothing."""
    assert await any_storage.get_state(KEY) is None
    assert await any_storage.get_data(KEY) == {}
    for state in (Form.name, Form.age.state, "free text"):
        await any_storage.set_state(KEY, state)
        wanted = state.state if isinstance(state, State) else state
        assert await any_storage.get_state(KEY) == wanted
    await any_storage.set_data(KEY, DATA)
    assert await any_storage.get_data(KEY) == DATA
    assert await any_storage.get_state(KEY) == "free text"
    assert await any_storage.get_value(KEY, "name") == "Ada"
    assert await any_storage.get_value(KEY, "nothing", "else") == "else"
    await any_storage.set_state(KEY)
    assert (await any_storage.get_state(KEY), await any_storage.get_data(KEY)) == (None, DATA)
    await any_storage.set_data(KEY, {})
    assert await any_storage.get_data(KEY) == {}
    await any_storage.close()


async def test_an_update_changes_some_keys(any_storage: BaseStorage) -> None:
    """It is `dict.update`: values are replaced as a whole, None is one; all of it is returned."""
    assert await any_storage.update_data(KEY, {"a": {"x": 1}, "b": 2}) == {"a": {"x": 1}, "b": 2}
    wanted = {"a": {"y": 1}, "b": None, "c": 3}
    assert await any_storage.update_data(KEY, wanted) == wanted
    assert await any_storage.get_data(KEY) == wanted
    assert await any_storage.get_state(KEY) is None


async def test_what_is_returned_is_a_copy(any_storage: BaseStorage) -> None:
    """Whoever changes what was returned or given changes nothing that is kept."""
    given = {"a": 1}
    await any_storage.set_data(KEY, given)
    given["a"] = 2
    (await any_storage.get_data(KEY))["a"] = 3
    (await any_storage.update_data(KEY, {}))["a"] = 4
    assert await any_storage.get_data(KEY) == {"a": 1}


async def test_keys_do_not_meet(any_storage: BaseStorage) -> None:
    """Bot, chat, user, topic, business connection and destiny each make another key."""
    await any_storage.set_state(KEY, "mine")
    await any_storage.set_data(KEY, {"mine": True})
    for other in OTHERS:
        assert await any_storage.get_state(other) is None
        assert await any_storage.get_data(other) == {}
        await any_storage.set_state(other, "theirs")
        await any_storage.update_data(other, {"theirs": True})
    assert await any_storage.get_state(KEY) == "mine"
    assert await any_storage.get_data(KEY) == {"mine": True}


async def test_a_context_is_cleared(any_storage: BaseStorage) -> None:
    """`state.clear()` of a handler leaves nothing."""
    state = FSMContext(any_storage, KEY)
    await state.set_state(Form.name)
    await state.update_data(name="Ada")
    await state.clear()
    assert (await state.get_state(), await state.get_data()) == (None, {})


# -- what ours does ------------------------------------------------------------------------------


async def test_nothing_leaves_no_row(storage: SqlStorage, uow_factory: UnitOfWorkFactory) -> None:
    """Without state and data there is no row, in whatever order they went."""
    state = FSMContext(storage, KEY)
    await state.set_state(None)
    await state.set_data({})
    assert await rows(uow_factory) == 0
    for first, second in (
        (state.set_state, state.set_data),
        (state.set_data, state.set_state),
    ):
        await state.set_state(Form.name)
        await state.set_data({"a": 1})
        assert await rows(uow_factory) == 1
        await _empty(first)
        assert await rows(uow_factory) == 1
        await _empty(second)
        assert await rows(uow_factory) == 0


async def _empty(verb: Callable[..., Awaitable[None]]) -> None:
    await verb({} if verb.__name__ == "set_data" else None)


async def test_a_change_is_a_part_of_the_open_unit(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory
) -> None:
    """State and data are seen in the unit, kept with it, and gone when it is rolled back."""
    state = FSMContext(storage, KEY)
    with pytest.raises(ZeroDivisionError):
        async with uow_factory():
            await state.set_state(Form.name)
            await state.update_data(name="Ada")
            assert (await state.get_state(), await state.get_data()) == (
                "Form:name",
                {"name": "Ada"},
            )
            raise ZeroDivisionError
    assert (await state.get_state(), await state.get_data()) == (None, {})
    async with uow_factory():
        await state.set_state(Form.age)
        await state.update_data(name="Ada")
    assert (await state.get_state(), await state.get_data()) == ("Form:age", {"name": "Ada"})


async def test_it_goes_with_its_savepoint(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory
) -> None:
    """A part of the unit that is undone takes its changes along, and only these."""
    state = FSMContext(storage, KEY)
    async with uow_factory() as uow:
        await state.set_state(Form.name)
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                await state.set_state(Form.age)
                await state.update_data(a=1)
                raise ZeroDivisionError
        await state.update_data(b=2)
    assert (await state.get_state(), await state.get_data()) == ("Form:name", {"b": 2})


async def test_pending_objects_are_not_flushed_by_it(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory
) -> None:
    """What a handler has added is written when the handler says so, not when a state is asked."""
    async with uow_factory() as uow:
        wrong = FsmRow(bot_id=1, chat_id=1, user_id=1, thread_id=0, business="", destiny=None)
        uow.session.add(wrong)
        await storage.set_state(KEY, Form.name)
        assert await storage.get_state(KEY) == "Form:name"
        uow.session.expunge(wrong)
    assert await storage.get_state(KEY) == "Form:name"


async def test_in_a_unit_that_reads_it_is_refused(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory
) -> None:
    """Reading goes; writing names the place of the unit that may not."""
    await storage.set_state(KEY, Form.name)
    async with uow_factory(read_only=True):
        assert await storage.get_state(KEY) == "Form:name"
        with pytest.raises(UnitOfWorkStateError, match=r"test_fsm\.py"):
            await storage.set_state(KEY, Form.age)
    assert await storage.get_state(KEY) == "Form:name"


async def test_a_failed_unit_takes_no_state(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory
) -> None:
    """After a statement failed and was swallowed, the unit is lost, and the state with it."""
    with pytest.raises(TransactionAbortedError):
        async with uow_factory() as uow:
            with pytest.raises(DBAPIError):
                await uow.session.execute(text("nonsense"))
            await storage.set_state(KEY, Form.name)
    assert await storage.get_state(KEY) is None


async def test_changes_at_once_are_all_kept(
    storage: SqlStorage, url: URL, open_database: Callable[..., Database]
) -> None:
    """Fifty tasks, half of another process's engine, update one key: no update is lost."""
    storages = [storage]
    if url.database != ":memory:":
        storages.append(SqlStorage(UnitOfWorkFactory(open_database(url))))
    await asyncio.gather(
        *(storages[n % len(storages)].update_data(KEY, {f"k{n}": n}) for n in range(50))
    )
    assert await storage.get_data(KEY) == {f"k{n}": n for n in range(50)}


@pytest.mark.parametrize("verb", ["set_data", "update_data"])
async def test_what_json_cannot_say_is_named(
    storage: SqlStorage, uow_factory: UnitOfWorkFactory, verb: str
) -> None:
    """The error names the key, nothing is changed, and an open unit goes on."""
    await storage.set_data(KEY, {"a": 1})
    data: dict[str, Any] = {"fine": 1, "when": datetime(2026, 1, 1, tzinfo=UTC)}
    async with uow_factory():
        with pytest.raises(TypeError, match=r"'when' cannot be kept as JSON: .*datetime"):
            await getattr(storage, verb)(KEY, data)
        await storage.set_state(KEY, Form.name)
    assert await storage.get_data(KEY) == {"a": 1}
    assert await storage.get_state(KEY) == "Form:name"


@pytest.mark.parametrize("verb", ["set_data", "update_data"])
async def test_data_is_a_mapping(storage: SqlStorage, verb: str) -> None:
    """A list is no data, and is told at once."""
    with pytest.raises(TypeError, match="FSM data is a mapping, as a dict, and not list"):
        await getattr(storage, verb)(KEY, [1])


async def test_data_may_be_written_in_ones_own_way(uow_factory: UnitOfWorkFactory) -> None:
    """`json_dumps` and `json_loads` are those of the caller."""
    storage = SqlStorage(uow_factory, json_dumps=lambda data: str(len(data)), json_loads=_counted)
    await storage.set_data(KEY, {"a": 1, "b": 2})
    assert await storage.get_data(KEY) == {"keys": 2}


def _counted(said: str) -> dict[str, int]:
    return {"keys": int(said)}


def test_mariadb_is_refused_by_name() -> None:
    """Its texts are equal when they differ in case, so keys would meet."""
    engine = create_engine(DatabaseConfig(url="mysql+asyncmy://nobody@localhost/bot"))
    with pytest.raises(DbManagerError, match="on PostgreSQL and SQLite, not on mysql"):
        SqlStorage(UnitOfWorkFactory(engine))
