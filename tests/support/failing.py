"""Ways in which a unit fails with what a user typed in the text of its error."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

import pydantic
from sqlalchemy import JSON, CheckConstraint, String, Table, literal, select, text
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.errors import DbManagerError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

#: What a user typed; a number has to be hidden, too.
CANARY: Final = "c4n4ry"
NUMBER: Final = 918273645

Fail = Callable[[UnitOfWorkFactory], Awaitable[object]]
ALL: Final = ("asyncpg", "psycopg", "aiosqlite", "asyncmy")
POSTGRES: Final = ("asyncpg", "psycopg")


class Told(Base):
    """A row that refuses much."""

    __table__: ClassVar[Table]

    __tablename__ = "told__row"
    __table_args__ = (CheckConstraint("age < 200", name="age_is_human"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    age: Mapped[int] = mapped_column(default=1)
    data: Mapped[Any] = mapped_column(JSON, nullable=True)


#: What PostgreSQL has for refusals of one's own.
FUNCTIONS: Final = (
    """
    CREATE FUNCTION told_raise(said text, code text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'no: %', said
        USING ERRCODE = code, DETAIL = said, HINT = said; END $$
    """,
    "CREATE TABLE told_late (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
)


class Way(NamedTuple):
    """One way, and the drivers on which it fails."""

    fail: Fail
    drivers: tuple[str, ...]


WAYS: dict[str, Way] = {}


def way(*drivers: str) -> Callable[[Callable[[UnitOfWork], Awaitable[object]]], None]:
    """Add a block of a unit to the ways."""

    def add(block: Callable[[UnitOfWork], Awaitable[object]]) -> None:
        async def fail(factory: UnitOfWorkFactory) -> None:
            async with factory() as uow:
                await block(uow)

        WAYS[block.__name__] = Way(fail, drivers or ALL)

    return add


def raising(name: str, make: Callable[[], BaseException]) -> None:
    """Add a block that raises an error of Python's."""

    async def block(_: UnitOfWork) -> None:
        raise make()

    block.__name__ = name
    way()(block)


def sending(name: str, sql: str, *drivers: str, **values: Any) -> None:
    """Add a block that sends a statement."""

    async def block(uow: UnitOfWork) -> None:
        result = await uow.session.execute(text(sql), values)
        result.all()

    block.__name__ = name
    way(*drivers)(block)


class Odd:
    """A value that no driver can send, and that shows itself."""

    def __repr__(self) -> str:
        return CANARY


class Named(pydantic.BaseModel):
    """What a handler may check an input with."""

    age: int


class OwnError(DbManagerError):
    """Somebody's error below ours."""

    def __str__(self) -> str:
        return str(self.args)


class MuteError(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise ValueError(CANARY)


def chained() -> Exception:
    """Return an error with a cause, a context and a note."""
    error = RuntimeError(CANARY)
    error.add_note(f"note: {CANARY}")
    error.__cause__ = KeyError(CANARY)
    error.__context__ = ValueError(CANARY)
    return error


def refused_by_pydantic() -> BaseException:
    """Return what pydantic says of a wrong value."""
    try:
        Named.model_validate({"age": CANARY})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


raising("value_error", lambda: ValueError(f"bad name {CANARY}"))
raising("key_error", lambda: KeyError(CANARY))
raising("number", lambda: ValueError(NUMBER))
raising("chained", chained)
raising("group", lambda: ExceptionGroup(CANARY, [ValueError(CANARY), chained()]))
raising("pydantic", refused_by_pydantic)
raising("own_error", lambda: OwnError(CANARY))
raising("mute_error", MuteError)
raising("file", lambda: FileNotFoundError(2, "No such file", f"/photos/{CANARY}"))
raising("encoding", lambda: UnicodeEncodeError("utf-8", CANARY, 0, 1, CANARY))
raising("cancelled", lambda: asyncio.CancelledError(CANARY))
raising("json", lambda: json.JSONDecodeError(CANARY, CANARY, 0))
raising("lines", lambda: ValueError(f"\n{CANARY}\nERROR {CANARY}"))

sending("cast", "SELECT CAST(:v AS INTEGER) + 1", *POSTGRES, v=CANARY)
sending("cast_of_text", f"SELECT CAST('{CANARY}' AS INTEGER)", *POSTGRES)
sending("date", "SELECT CAST(CAST(:v AS TEXT) AS DATE)", *POSTGRES, v=CANARY)
sending("json_of_text", "SELECT CAST(CAST(:v AS TEXT) AS JSON)", *POSTGRES, v=f"{{{CANARY}")
sending("json_in_sqlite", "SELECT json(:v)", "aiosqlite", v=f"{{{CANARY}")
sending("no_table", f"SELECT 1 FROM nowhere WHERE name = '{CANARY}' AND id = {NUMBER}")
sending("comment", f"SELECT 1 FROM nowhere -- {CANARY}\n")
sending("quote_in_text", f"SELECT 1 FROM nowhere WHERE name = 'x' {CANARY} 'y'")
sending("dollars", f"SELECT 1 FROM nowhere WHERE name = $a${CANARY}$a$", *POSTGRES)
sending("double_quotes", f'SELECT 1 FROM nowhere WHERE name = "{CANARY}"', "asyncmy", "aiosqlite")
sending("raised", "SELECT told_raise(:v, 'P0001')", *POSTGRES, v=CANARY)
sending("raised_as_unique", "SELECT told_raise(:v, '23505')", *POSTGRES, v=CANARY)
sending("raised_as_lost", "SELECT told_raise(:v, '57P01')", *POSTGRES, v=CANARY)
sending("raised_as_password", "SELECT told_raise(:v, '28P01')", *POSTGRES, v=CANARY)
sending("nul", "SELECT CAST(:v AS TEXT)", *POSTGRES, v=f"\0{CANARY}")
sending("odd_value", "SELECT :v", *POSTGRES, "aiosqlite", v=Odd())  # asyncmy sends its repr()
sending("late", "INSERT INTO told_late VALUES (:v), (:v) RETURNING name", *POSTGRES, v=CANARY)
sending("signal", f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{CANARY}'", "asyncmy")


@way()
async def duplicate(uow: UnitOfWork) -> None:
    """Add the same name twice."""
    uow.session.add_all([Told(name=CANARY), Told(name=CANARY)])
    await uow.session.flush()


@way()
async def duplicate_id(uow: UnitOfWork) -> None:
    """Add the same number twice."""
    insert = text("INSERT INTO told__row (id, name, age) VALUES (:id, :name, 1)")
    for name in (CANARY, f"{CANARY}2"):
        await uow.session.execute(insert, {"id": NUMBER, "name": name})


@way(*POSTGRES, "asyncmy")
async def too_long(uow: UnitOfWork) -> None:
    """Add a name that is too long."""
    uow.session.add(Told(name=CANARY * 20))


@way()
async def check(uow: UnitOfWork) -> None:
    """Violate a check."""
    uow.session.add(Told(name=CANARY, age=NUMBER))


@way()
async def null(uow: UnitOfWork) -> None:
    """Leave a column out; PostgreSQL shows the whole row."""
    await uow.session.execute(
        text("INSERT INTO told__row (id, name, age) VALUES (:id, :name, NULL)"),
        {"id": 5, "name": CANARY},
    )


@way(*POSTGRES, "asyncmy")
async def wrong_type(uow: UnitOfWork) -> None:
    """Send a text where a number belongs."""
    uow.session.add(Told(name="x", age=CANARY))
    await uow.session.flush()


@way(*POSTGRES, "asyncmy")
async def too_big(uow: UnitOfWork) -> None:
    """Send a number that is too big."""
    uow.session.add(Told(name=CANARY, age=NUMBER * 10**12))


@way()
async def not_json(uow: UnitOfWork) -> None:
    """Send what JSON cannot hold: SQLAlchemy refuses it."""
    uow.session.add(Told(name=CANARY, data={CANARY: Odd()}))


@way()
async def literal_binds(uow: UnitOfWork) -> None:
    """Send a statement with its values in it."""
    query = select(text("nothing")).where(literal(CANARY, literal_execute=True) == Told.name)
    await uow.session.execute(query)


@way()
async def swallowed(uow: UnitOfWork) -> None:
    """Go on after a failure."""
    with suppress(Exception):
        await uow.session.execute(text(f"SELECT '{CANARY}' FROM nowhere"))


@way()
async def savepoint(uow: UnitOfWork) -> None:
    """Fail in a part."""
    async with uow.savepoint():
        uow.session.add_all([Told(name=CANARY), Told(name=CANARY)])
        await uow.session.flush()


@way()
async def by_driver(uow: UnitOfWork) -> None:
    """Fail on the driver's own connection."""
    driver = await uow.driver()
    sql = f"SELECT '{CANARY}' FROM nowhere"
    if hasattr(driver, "cursor") and not hasattr(driver, "fetchval"):
        cursor = driver.cursor()
        cursor = await cursor if asyncio.iscoroutine(cursor) else cursor
        await cursor.execute(sql)
    else:
        await driver.execute(sql)


@way()
async def other_task(uow: UnitOfWork) -> None:
    """Use the unit in a task whose name a user typed."""
    await asyncio.create_task(uow.session.execute(text("SELECT 1")), name=CANARY)


@way()
async def cancelled_with_words(_: UnitOfWork) -> None:
    """Be cancelled with a message."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel(CANARY)
    try:
        await asyncio.sleep(0)
    finally:
        task.uncancel()


async def by_callback(factory: UnitOfWorkFactory) -> None:
    """Fail after the end, with the user's text also among the arguments."""

    def fail(said: str) -> None:
        raise ValueError(said)

    async with factory() as uow:
        uow.after_commit(partial(fail, CANARY))
    raise ValueError(CANARY)


async def by_retries(factory: UnitOfWorkFactory) -> None:
    """Fail with what is worth a retry until attempts are used up."""

    async def work(uow: UnitOfWork) -> None:
        await uow.session.execute(text("SELECT told_raise(:v, '40001')"), {"v": CANARY})

    await factory.run(work, attempts=2)


async def by_waiting(factory: UnitOfWorkFactory) -> None:
    """Wait in vain for the connection of a unit whose statement holds a literal."""
    async with factory() as holder:
        await holder.session.execute(text(f"SELECT '{CANARY}', {NUMBER}"))

        async def wait() -> None:
            async with factory() as uow:
                await uow.session.execute(text("SELECT 1"))

        await asyncio.create_task(wait())


WAYS["by_callback"] = Way(by_callback, ALL)
WAYS["by_retries"] = Way(by_retries, POSTGRES)
WAYS["by_waiting"] = Way(by_waiting, ALL)
