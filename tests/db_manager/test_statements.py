"""The event of a statement: made for who listens, and only then."""

from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from db_manager.database.database import Database
from db_manager.events import UnitStatement
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.event import Event
from observability.testing import EventRecorder


async def test_a_statement_is_told_without_its_values(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """Who listens to statements hears each once: its text, its database, its time, no parameter."""
    with EventRecorder(database.bus, "database.statement") as events:
        async with uow_factory() as uow:
            await uow.session.execute(text("SELECT 1 WHERE 'a' <> :value"), {"value": "canary"})
            await uow.connection.execute(text("SELECT 2"))
        first, second = (statement(event) for event in events.events)
    assert (first.operation, first.error) == ("SELECT", "")
    assert first.system == database.engine.dialect.name
    assert first.statement == "SELECT ? WHERE …"
    assert second.statement == "SELECT ?"
    assert "canary" not in str(first.as_dict())
    assert first.unit == first.correlation.unit == uow.number
    assert first.duration > 0
    assert uow.statements == 2


async def test_a_refused_statement_is_told_with_its_error(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A statement that fails is one event with the error, also when the block goes on."""
    with EventRecorder(database.bus, "database.statement") as events:
        with pytest.raises(DBAPIError):
            async with uow_factory() as uow:
                await uow.session.execute(text("\n select 1 FROM nothing"))
        told = statement(*events.events)
    assert told.operation == "SELECT"
    assert "select ? FROM nothing" in told.error
    assert told.duration > 0


async def test_nobody_pays_for_statements_that_nobody_reads(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """With the end of units alone being read, no event of a statement is made."""
    heard: list[Event] = []
    with EventRecorder(database.bus, "uow.close"):
        async with uow_factory() as uow:
            await uow.session.execute(text("SELECT 1"))
            # The channel is asked anew for each statement.
            with database.bus.subscribe("database.statement", heard.append):
                await uow.session.execute(text("SELECT 2"))
            await uow.session.execute(text("SELECT 3"))
    assert uow.statements == 3
    assert [statement(event).statement for event in heard] == ["SELECT ?"]


def statement(event: Event) -> UnitStatement:
    """Return *event* as what it is."""
    assert isinstance(event, UnitStatement)
    return event


@pytest.mark.parametrize("first", [True, False])
async def test_a_listener_of_ones_own_is_asked_all_the_same(
    database: Database, uow_factory: UnitOfWorkFactory, *, first: bool
) -> None:
    """Who listens to `do_execute` is asked once for each statement, and may answer it himself."""
    asked: list[str] = []

    def mine(cursor: Any, sql: str, parameters: Any, context: Any) -> bool:
        asked.append(sql)
        if sql != "SELECT 2":
            return False
        context.dialect.do_execute(cursor, "SELECT 22", parameters, context)
        return True

    if first:
        event.listen(database.engine.sync_engine, "do_execute", mine)
    with EventRecorder(database.bus, "uow.close"):
        async with uow_factory() as uow:
            await uow.session.execute(text("SELECT 1"))
            if not first:
                event.listen(database.engine.sync_engine, "do_execute", mine)
            assert await uow.session.scalar(text("SELECT 2")) == 22
            assert await uow.session.scalar(text("SELECT 3")) == 3
    assert asked[-2:] == ["SELECT 2", "SELECT 3"]
    assert asked.count("SELECT 2") == asked.count("SELECT 3") == 1
    assert uow.statements == 3


async def test_many_rows_at_once_are_one_statement(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """`executemany` and statements without parameters are counted, too."""
    with EventRecorder(database.bus, "uow.close"):
        async with uow_factory() as uow:
            await uow.connection.execute(text("CREATE TABLE t (id INT)"))
            rows = [{"id": number} for number in range(3)]
            await uow.connection.execute(text("INSERT INTO t VALUES (:id)"), rows)
            count = "SELECT count(*) FROM t"
            options = {"no_parameters": True}
            result = await uow.connection.exec_driver_sql(count, execution_options=options)
            assert result.scalar() == 3
    assert uow.statements == 3
