"""Guards for what we use of SQLAlchemy's adapters and aiosqlite without being promised it."""

import inspect
from collections.abc import Callable
from threading import Thread
from typing import Any

import psycopg
import pytest
import sqlalchemy.pool
from sqlalchemy import insert, select, text
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.engine import URL
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import connected

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.dialects.sqlite.stoppable import Stoppable
from db_manager.engine.pool import FairQueuePool
from db_manager.unit.uow import UnitOfWork


class Mark(Base):
    """A model, for statements of the ORM."""

    __tablename__ = "private_api_test__mark"

    id: Mapped[int] = mapped_column(primary_key=True)


async def test_asyncpg_remembers_the_transaction_that_it_began(postgres_database: URL) -> None:
    """`_top_xact` is the outermost transaction of a connection, and None without one."""
    async with connected(postgres_database) as driver:
        seen = [driver._top_xact]
        async with driver.transaction():
            seen.append(driver._top_xact)
        seen.append(driver._top_xact)
    assert [each is None for each in seen] == [True, False, True]


async def test_psycopg_remembers_the_pipeline_that_it_is_in(postgres_database: URL) -> None:
    """`_pipeline` is the pipeline of a connection, and None without one."""
    url = postgres_database.set(drivername="postgresql").render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(url) as driver:
        seen = [driver._pipeline]
        async with driver.pipeline():
            seen.append(driver._pipeline)
        seen.append(driver._pipeline)
    assert [each is None for each in seen] == [True, False, True]


async def test_the_adapter_of_asyncpg_begins_when_it_is_told(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """`_start_transaction` begins at the server, and `_transaction` says whether it has."""
    database = open_database(postgres_database)
    async with database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        adapter: Any = raw.dbapi_connection
        driver: Any = raw.driver_connection
        before = (adapter._transaction, driver.is_in_transaction())
        await adapter._start_transaction()
        assert before == (None, False)
        assert (bool(adapter._transaction), driver.is_in_transaction()) == (True, True)


async def test_without_the_adapters_private_names_the_lane_still_begins(
    postgres_database: URL,
    open_database: Callable[..., Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When SQLAlchemy renames them, the driver's lane costs one round trip more, and works."""
    database = open_database(postgres_database)
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INT)"))

    def without(subject: object, name: str, *default: Any) -> Any:
        return None if name == "_start_transaction" else getattr(subject, name, *default)

    monkeypatch.setattr("db_manager.dialects.postgresql.asyncpg.getattr", without, raising=False)
    with pytest.raises(ZeroDivisionError):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            await driver.execute("INSERT INTO t VALUES (1)")
            raise ZeroDivisionError
    async with UnitOfWork(database) as uow:
        driver = await uow.driver()
        await driver.execute("INSERT INTO t VALUES (2)")
    async with UnitOfWork(database) as uow:
        assert list(await uow.session.scalars(text("SELECT id FROM t"))) == [2]


def test_names_of_aiosqlite() -> None:
    """The connection of aiosqlite has the thread, the connection and the crossing that we use."""
    connection = Stoppable(lambda: None, 64)  # type: ignore[arg-type, return-value]  # never opened
    assert isinstance(connection._thread, Thread)
    assert connection._connection is None
    assert inspect.iscoroutinefunction(connection._execute)
    assert list(inspect.signature(connection._execute).parameters) == ["fn", "args", "kwargs"]
    assert list(inspect.signature(connection.stop).parameters) == []
    with pytest.raises(ValueError, match="no active connection"):
        _ = connection._conn


def test_the_adapter_of_aiosqlite_takes_our_connection() -> None:
    """`async_creator_fn` in the arguments of connect is how the adapter gets a connection."""
    source = inspect.getsource(AsyncAdapt_aiosqlite_dbapi.connect)
    assert 'kw.pop("async_creator_fn", None)' in source


async def test_our_connection_is_what_the_engine_uses(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """A SQLite engine hands out our connection, in a thread that does not keep a program alive."""
    async with UnitOfWork(open_database(sqlite_database)) as uow:
        driver = await uow.driver()
        assert type(driver).__module__ == "db_manager.dialects.sqlite.connection"
        assert driver._thread.daemon


def test_statements_say_whether_they_are_the_orms() -> None:
    """`_propagate_attrs` names the ORM for its statements, and nothing for those of Core."""
    marks = [
        statement._propagate_attrs.get("compile_state_plugin")
        for statement in (select(Mark), insert(Mark), select(Mark.__table__), text("SELECT 1"))
    ]
    assert marks == ["orm", "orm", None, None]


def test_psycopg_waits_in_one_place() -> None:
    """Whatever psycopg sends, it waits for the answer by `AsyncConnection.wait`."""
    psycopg = pytest.importorskip("psycopg")
    assert inspect.iscoroutinefunction(psycopg.AsyncConnection.wait)
    assert next(iter(inspect.signature(psycopg.AsyncConnection.wait).parameters)) == "self"
    source = inspect.getsource(psycopg.cursor_async)
    assert "_conn.wait(" in source
    assert "wait_async(" not in source


def test_asyncmy_fills_its_buffer_in_one_place() -> None:
    """The connection of asyncmy has what our deadline and our look at it use."""
    connection = pytest.importorskip("asyncmy.connection").Connection
    assert callable(connection._fill_buffer)
    for name in ("_stream_broken", "_proto", "_transport", "server_status"):
        assert hasattr(connection, name), name


def test_the_pool_of_sqlalchemy_asks_what_ours_overrides() -> None:
    """The pool and its entries have the names that our pool uses or stands for."""
    source = inspect.getsource(sqlalchemy.pool.base) + inspect.getsource(sqlalchemy.pool.impl)
    for name in (
        "pool._do_get()",
        "pool._return_conn(self)",
        "self._do_return_conn(",
        "self._create_connection()",
        "def _inc_overflow(",
        "def _dec_overflow(",
        "def _invalidate(",
        "_soft_invalidate_time",
        "_do_ping_w_event(",
        "self.fresh = True",
        "self.starttime = time.time()",
    ):
        assert name in source, name
    ours = inspect.signature(FairQueuePool._invalidate).parameters
    assert list(ours) == list(inspect.signature(sqlalchemy.pool.Pool._invalidate).parameters)
