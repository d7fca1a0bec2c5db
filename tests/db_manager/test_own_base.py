"""A declarative base of one's own, on the metadata of db_manager: its names, its constraints."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    PrimaryKeyConstraint,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.sql.naming import conv

import db_manager
from db_manager.schema import missing_tables
from db_manager.testing import Databases, Sandbox
from lifecycle import Application, EventBus


@pytest.fixture
async def sandbox(event_bus: EventBus) -> AsyncIterator[Sandbox]:
    """A sandbox on SQLite, whatever server the sandboxes of other modules are on."""
    databases = Databases("sqlite://")
    async with Sandbox.open(databases, event_bus) as opened:
        yield opened
    await databases.close()


class OwnBase(DeclarativeBase):
    """The line that the documents show."""

    metadata = db_manager.Base.metadata


class User(OwnBase):
    """A table with the name that it always had."""

    __tablename__ = "own_base_users"
    __table_args__ = (CheckConstraint("id > 0", name="positive"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class Order(db_manager.Base):
    """A table of a plugin, which refers to an old one."""

    __tablename__ = "own_base__order"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("own_base_users.id"))
    user: Mapped[User] = relationship(User)


class Card(OwnBase):
    """A table whose owner names every constraint."""

    __tablename__ = "own_base_cards"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="cards_pkey"),
        UniqueConstraint("number", name="cards_number_key"),
        CheckConstraint("id > 0", name=conv("positive")),
    )

    id: Mapped[int]
    number: Mapped[str]


def names(model: type[OwnBase]) -> set[str]:
    """Return the names of the constraints that a new table gets."""
    table = db_manager.Base.metadata.tables[model.__tablename__]
    return {str(constraint.name) for constraint in table.constraints}


async def test_its_tables_are_made_checked_and_in_the_sandbox(sandbox: Sandbox) -> None:
    """Both bases have their tables at start, and one may refer to the other."""
    app: Application = await sandbox.start()
    async with app.services["db_manager:uow_factory"]() as uow:
        uow.session.add(Order(user=User(email="a@b")))
    async with sandbox.engine.connect() as connection:
        assert await connection.run_sync(missing_tables, db_manager.Base.metadata) == []


async def test_a_table_that_is_there_keeps_the_names_of_its_constraints(sandbox: Sandbox) -> None:
    """A start changes nothing of it: what the database calls a constraint stays."""
    async with sandbox.engine.begin() as connection:
        for table in ("own_base__order", "own_base_users"):  # the sandbox has made them
            await connection.execute(text(f"DROP TABLE {table}"))
        await connection.execute(
            text(
                "CREATE TABLE own_base_users (id INTEGER PRIMARY KEY, email VARCHAR NOT NULL, "
                "CONSTRAINT as_it_was UNIQUE (email))"
            )
        )
    await sandbox.start()
    async with sandbox.engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: inspect(sync).get_unique_constraints("own_base_users")
        )
    assert [constraint["name"] for constraint in found] == ["as_it_was"]


def test_new_tables_get_names_as_the_documents_say() -> None:
    """A constraint without a name gets one, and the name of a CHECK the table's before it."""
    assert names(User) == {
        "pk_own_base_users",
        "uq_own_base_users_email",
        "ck_own_base_users_positive",
    }


def test_a_name_that_the_owner_gave_stays() -> None:
    """Of a CHECK with SQLAlchemy's `conv`, of every other constraint as it is."""
    assert names(Card) == {"cards_pkey", "cards_number_key", "positive"}
