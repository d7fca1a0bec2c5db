"""The event of a statement: made for who listens, and only then."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db_manager.database import Database
from db_manager.events import UnitStatement
from db_manager.factory import UnitOfWorkFactory
from lifecycle.events import Event
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
    assert first.statement.startswith("SELECT 1 WHERE 'a' <> ")
    assert second.statement == "SELECT 2"
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
    assert "nothing" in told.error
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
    assert [statement(event).statement for event in heard] == ["SELECT 2"]


def statement(event: Event) -> UnitStatement:
    """Return *event* as what it is."""
    assert isinstance(event, UnitStatement)
    return event
