"""What a unit does, the same for everybody: the table, its statements, and the parts of units."""

import itertools
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import sqlalchemy
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.rounds import Case

#: Of this process: others may measure in the same database.
TABLE: Final = f"db_manager_bench_{os.getpid()}"
ROWS: Final = 1000

INSERT, SELECT, THREE, EMPTY = "INSERT", "SELECT by key", "three statements", "empty"
WORKS: Final = (INSERT, SELECT, THREE, EMPTY)

#: Objects that one query of the ORM returns.
SOME: Final = 19
ADD, GET, CHANGE, MANY = (
    "ORM add",
    "ORM get",
    "ORM get and change",
    f"ORM SELECT of {SOME} objects",
)
ORM_WORKS: Final = (ADD, GET, CHANGE, MANY)

SELECT_SQL: Final = f"SELECT id, name, qty FROM {TABLE} WHERE id = {{0}}"
UPDATE_SQL: Final = f"UPDATE {TABLE} SET qty = qty + 1 WHERE id = {{0}}"
INSERT_SQL: Final = f"INSERT INTO {TABLE} (name, qty) VALUES ({{0}}, {{1}})"
MANY_SQL: Final = f"SELECT id, name, qty FROM {TABLE} WHERE id BETWEEN {{0}} AND {{1}}"

# Made once, as a user does who looks after speed: SQLAlchemy need not parse them in every unit.
_SELECT = text(SELECT_SQL.format(":id"))
_UPDATE = text(UPDATE_SQL.format(":id"))
_INSERT = text(INSERT_SQL.format(":name", ":qty"))

_keys = itertools.cycle(range(1, ROWS + 1))

#: The statements of one unit, on what its lane gives.
Part = Callable[[Any], Awaitable[object]]


class _Base(DeclarativeBase):
    """Of this table alone."""


class Item(_Base):
    """One row."""

    __tablename__ = TABLE

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    qty: Mapped[int]


_MANY = sqlalchemy.select(Item).where(Item.id.between(bindparam("first"), bindparam("last")))


async def prepare(engine: AsyncEngine) -> None:
    """Make the table anew, with its rows."""
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.drop_all)
        await connection.run_sync(_Base.metadata.create_all)
        rows = [{"name": f"item {i}", "qty": 0} for i in range(ROWS)]
        await connection.execute(_INSERT, rows)


async def clean(engine: AsyncEngine) -> None:
    """Drop the table."""
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.drop_all)


def key() -> int:
    """Return the key whose turn it is: tasks that work at once have different rows."""
    return next(_keys)


def some_keys() -> tuple[int, int]:
    """Return the first and the last key of as many rows as `SOME`."""
    first = min(key(), ROWS - SOME + 1)
    return first, first + SOME - 1


async def nothing(_: Any) -> None:
    """Do nothing."""


async def select(lane: Any) -> None:
    """Read one row, through a session or a Core connection."""
    (await lane.execute(_SELECT, {"id": key()})).one()


async def insert(lane: Any) -> None:
    """Write one row."""
    await lane.execute(_INSERT, {"name": "new", "qty": 1})


async def three(lane: Any) -> None:
    """Read, change and write."""
    mine = {"id": key()}
    (await lane.execute(_SELECT, mine)).one()
    await lane.execute(_UPDATE, mine)
    await lane.execute(_INSERT, {"name": "new", "qty": 1})


async def add(session: Any) -> None:
    """Write one object."""
    session.add(Item(name="new", qty=1))


async def get(session: Any) -> None:
    """Read one object."""
    assert await session.get(Item, key()) is not None


async def change(session: Any) -> None:
    """Read one object and change it."""
    (await session.get(Item, key())).qty += 1


async def many(session: Any) -> None:
    """Read some objects."""
    first, last = some_keys()
    found = (await session.scalars(_MANY, {"first": first, "last": last})).all()
    assert len(found) == SOME


CORE_PARTS: Final[dict[str, Part]] = {INSERT: insert, SELECT: select, THREE: three, EMPTY: nothing}
ORM_PARTS: Final[dict[str, Part]] = {ADD: add, GET: get, CHANGE: change, MANY: many}
SESSION_PARTS: Final[dict[str, Part]] = {**CORE_PARTS, **ORM_PARTS}


def whole(
    begin: Callable[[], AbstractAsyncContextManager[Any]],
    part: Part,
    lane: Callable[[Any], Any] | None = None,
) -> Case:
    """Return a unit of which *begin* is begin and end.

    Args:
        begin: Returns the context manager of one unit.
        part: What happens in it.
        lane: Takes what *part* works with from what *begin* gives; by default that itself.
    """

    async def plain() -> None:
        async with begin() as given:
            await part(given)

    async def through_lane() -> None:
        async with begin() as given:
            await part(lane(given))  # type: ignore[misc]  # this one is for lanes only

    return plain if lane is None else through_lane


def nested(open_session: Callable[[], AbstractAsyncContextManager[Any]], part: Part) -> Case:
    """Return a unit that is a session and, inside it, a transaction."""

    async def unit() -> None:
        async with open_session() as session, session.begin():
            await part(session)

    return unit
