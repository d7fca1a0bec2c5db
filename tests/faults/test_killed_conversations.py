"""A step of a conversation and what it writes survive SIGKILL together, or not at all: O19."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.lives import Program, lives

from db_manager.base import Base
from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.delivery.fsm import FsmRow
from db_manager.engine.create import create_engine
from db_manager.unit.uow import UnitOfWork


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    """Yield the program; it ends with the test."""
    async with lives(Path(__file__).parent / "conversing.py") as program:
        yield program


@pytest.fixture
async def database(database_url: URL) -> AsyncIterator[Database]:
    """A database with the tables, once on SQLite and once on PostgreSQL."""
    url = database_url.render_as_string(hide_password=False)
    database = Database(create_engine(DatabaseConfig.model_validate({"url": url})))
    async with database.engine.begin() as connection:
        tables = [Base.metadata.tables[FsmRow.__tablename__]]
        await connection.run_sync(Base.metadata.create_all, tables)
        await connection.execute(text("CREATE TABLE step (form int, step int)"))
    yield database
    await database.dispose()


async def disagreements(database: Database, said: dict[int, int]) -> list[str]:
    """Return the forms in which rows, state, data and what was acknowledged differ."""
    async with UnitOfWork(database) as uow:
        rows = await uow.connection.execute(
            text("SELECT form, max(step), count(*) FROM step GROUP BY form")
        )
        steps = {form: (last, number) for form, last, number in rows}
        states = await uow.connection.execute(
            text("SELECT chat_id, state, data FROM delivery__fsm")
        )
        kept = {form: (state, data) for form, state, data in states}
    wrong = []
    for form in sorted(steps.keys() | kept.keys() | said.keys()):
        last, number = steps.get(form, (0, 0))
        state, data = kept.get(form, (None, None))
        if not (number == last >= said.get(form, 0)) or kept.get(form) != (
            str(last),
            f'{{"step": {last}}}',
        ):
            wrong.append(f"form {form}: {number} rows up to {last}, {state=}, {data=}")
    return wrong


async def test_a_step_is_there_as_a_whole(
    program: Program, database: Database, full: bool, row: Callable[..., None]
) -> None:
    """O19: after each SIGKILL state and data of every form are those of its last row."""
    kills, url = 100 if full else 3, database.engine.url
    said: dict[int, int] = {}
    for _ in range(kills):
        await program.begin(url.render_as_string(hide_password=False), "together")
        lines = [await program.read() for _ in range(random.randint(1, 40))]
        for line in [*lines, *await program.kill()]:
            form, step = map(int, line.split())
            said[form] = step
        assert await disagreements(database, said) == []
    row(
        "O19",
        load=f"{url.get_backend_name()}: {kills} x SIGKILL, {len(said)} forms at once",
        result=f"{sum(said.values())} steps, state and data are those of the last row each time",
    )


async def test_a_state_apart_from_its_rows_would_be_seen(
    program: Program, database: Database
) -> None:
    """O19, the wrong way: a state in a unit of its own is ahead of the rows after a death."""
    await program.begin(database.engine.url.render_as_string(hide_password=False), "apart")
    await program.said()
    assert await disagreements(database, {}) != []
