"""Drift: a table that was just made has none, and what somebody changed is found, with its cure."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.base import NAMING_CONVENTION
from db_manager.config import DatabaseConfig
from db_manager.drift.difference import Difference
from db_manager.drift.look import differences
from db_manager.engine.create import create_engine

LONG = "a_name_that_is_longer_than_what_most_databases_keep_of_it"


def shapes(metadata: MetaData) -> None:
    """Describe tables with everything but unusual types."""
    Table(
        "shapes__user",
        metadata,
        Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        Column("email", sa.String(50), unique=True),
        Column("name", sa.String(50), nullable=False, index=True, server_default="nobody"),
        Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
        Column("length", sa.Integer, Computed("1 + 2")),
        Column("parent_id", ForeignKey("shapes__user.id", ondelete="SET NULL")),
        Column("a_mood", sa.Enum("good", "bad", name="shapes_mood", create_constraint=True)),
        CheckConstraint("name <> ''", name="named"),
        *([] if "ck" in metadata.naming_convention else [CheckConstraint("length(name) < 60")]),
        UniqueConstraint("name", "email"),
        Index("shapes_two", "email", "name"),
        Index("shapes_expression", sa.func.lower(sa.column("name"))).ddl_if(dialect="postgresql"),
    )
    Table(
        "shapes__MixedCase",
        metadata,
        Column("Id", sa.Integer, primary_key=True),
        Column(
            "User",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            ForeignKey("shapes__user.id"),
            index=True,
        ),
        Column("select", sa.Integer, unique=True),
        Column("with space", sa.Integer, index=True),
        CheckConstraint('"select" > 0', name="Positive").ddl_if(dialect="postgresql"),
        UniqueConstraint("Id", "User", name="Mixed Name").ddl_if(dialect="postgresql"),
    )
    pair = Table(
        "shapes__pair",
        metadata,
        Column("left", sa.Integer, primary_key=True, autoincrement=False),
        Column("right", sa.Integer, primary_key=True, autoincrement=False),
        Column(LONG, sa.Integer, nullable=False, index=True, unique=True),
        CheckConstraint(sa.column("left") > 0, name=f"x{LONG}"[:30]),
        UniqueConstraint("right", LONG),
    )
    Index(
        "shapes_partial",
        pair.c.right,
        unique=True,
        postgresql_where=pair.c.left > 0,
        sqlite_where=pair.c.left > 0,
    )
    Index("shapes_down", pair.c.left.desc())
    Table(
        "shapes__of_pair",
        metadata,
        Column("id", sa.Integer, Identity(), primary_key=True),
        Column("a", sa.Integer),
        Column("b", sa.Integer),
        Column("number", sa.Numeric(10, 2), server_default="0"),
        ForeignKeyConstraint(["a", "b"], ["shapes__pair.left", "shapes__pair.right"]),
    )
    Table(
        "shapes__circle_a",
        metadata,
        Column("id", sa.Integer, primary_key=True),
        Column("b", ForeignKey("shapes__circle_b.id", use_alter=True, name="circle")),
    )
    Table(
        "shapes__circle_b",
        metadata,
        Column("id", sa.Integer, primary_key=True),
        Column("a", ForeignKey("shapes__circle_a.id")),
    )


async def drift(engine: AsyncEngine, metadata: MetaData) -> list[Difference]:
    """Return what differs."""
    async with engine.connect() as connection:
        return await connection.run_sync(differences, metadata)


async def create(engine: AsyncEngine, metadata: MetaData) -> None:
    """Create the tables."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def place(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for each database."""
    url: URL = request.getfixturevalue(f"{request.param}_database")
    return url


@pytest.fixture
async def engine(place: URL) -> AsyncIterator[AsyncEngine]:
    """An engine on it."""
    engine = create_engine(DatabaseConfig(url=place.render_as_string(hide_password=False)))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("convention", [NAMING_CONVENTION, None], ids=["named", "unnamed"])
async def test_what_was_just_made_does_not_differ(engine: AsyncEngine, convention: Any) -> None:
    """Keys, constraints, defaults and names of every kind are found again."""
    metadata = MetaData(naming_convention=convention)
    shapes(metadata)
    await create(engine, metadata)
    assert await drift(engine, metadata) == []


def thing(*more: Any, **columns: Any) -> MetaData:
    """Return a table with columns of these types, or of these columns, and with more."""
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    Table("drift__other", metadata, Column("id", sa.Integer, primary_key=True))
    made = [
        Column(name, *(what if isinstance(what, tuple) else (what,)))
        for name, what in columns.items()
    ]
    Table("drift__thing", metadata, Column("id", sa.Integer, primary_key=True), *made, *more)
    return metadata


MOOD = sa.Enum("good", name="drift_mood")
MORE_MOOD = sa.Enum("good", "so so", "it's bad", name="drift_mood")

#: What a table was made of, what its model is now, what is said, and whether SQLite can be altered.
CHANGES: dict[str, tuple[MetaData, MetaData, str, bool]] = {
    "column": (
        thing(),
        thing(word=sa.String(20)),
        "drift__thing has no column word",
        True,
    ),
    "type": (
        thing(n=sa.Integer),
        thing(n=sa.String(20)),
        "drift__thing.n is INTEGER, in the model VARCHAR(20)",
        False,
    ),
    "not null": (
        thing(n=sa.Integer),
        thing(Column("n", sa.Integer, nullable=False)),
        "drift__thing.n may be NULL, in the model it is NOT NULL",
        False,
    ),
    "null": (
        thing(Column("n", sa.Integer, nullable=False)),
        thing(n=sa.Integer),
        "drift__thing.n is NOT NULL, in the model it may be NULL",
        False,
    ),
    "index": (
        thing(n=sa.Integer, m=sa.Integer),
        thing(Index("drift_nm", "n", "m"), n=sa.Integer, m=sa.Integer),
        "drift__thing has no index on n, m",
        True,
    ),
    "order of an index": (
        thing(Index("drift_mn", "m", "n"), n=sa.Integer, m=sa.Integer),
        thing(Index("drift_nm", "n", "m"), n=sa.Integer, m=sa.Integer),
        "drift__thing has no index on n, m",
        True,
    ),
    "unique index": (
        thing(Index("drift_a", "n"), n=sa.Integer),
        thing(Index("drift_b", "n", unique=True), n=sa.Integer),
        "drift__thing has no unique index on n",
        True,
    ),
    "unique": (
        thing(Index("drift_a", "n"), n=sa.Integer),
        thing(Column("n", sa.Integer, unique=True)),
        "drift__thing has no unique constraint on n",
        True,
    ),
    "foreign key": (
        thing(n=sa.Integer),
        thing(n=(sa.Integer, ForeignKey("drift__other.id"))),
        "drift__thing has no foreign key from n to drift__other",
        False,
    ),
    "check": (
        thing(CheckConstraint("n > 0", name="low"), n=sa.Integer),
        thing(
            CheckConstraint("n > 0", name="low"),
            CheckConstraint("n < 9", name="high"),
            n=sa.Integer,
        ),
        "drift__thing has no check constraint ck_drift__thing_high",
        False,
    ),
}
#: On servers only: SQLite enforces neither.
ON_SERVERS: dict[str, tuple[MetaData, MetaData, str]] = {
    "length": (
        thing(word=sa.String(20)),
        thing(word=sa.String(64)),
        "drift__thing.word is VARCHAR(20), in the model VARCHAR(64)",
    ),
    "precision": (
        thing(n=sa.Numeric(10, 2)),
        thing(n=sa.Numeric(10, 4)),
        "(10, 2), in the model NUMERIC(10, 4)",
    ),
    "size": (
        thing(n=sa.Integer),
        thing(n=sa.BigInteger),
        "drift__thing.n is INTEGER, in the model BIGINT",
    ),
    "enumeration": (
        thing(n=MOOD),
        thing(n=MORE_MOOD),
        "drift__thing.n has a type without 'so so', \"it's bad\"",
    ),
}


async def undone(engine: AsyncEngine, found: Difference, model: MetaData) -> list[Difference]:
    """Return what differs after the cure was carried out."""
    async with engine.begin() as connection:
        for statement in found.cure.split("; "):
            await connection.exec_driver_sql(statement)
    return await drift(engine, model)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_found_and_its_cure_undoes_it(engine: AsyncEngine, change: str) -> None:
    """One line says what differs; its statement makes the table as the model is."""
    before, model, said, everywhere = CHANGES[change]
    await create(engine, before)
    (found,) = await drift(engine, model)
    assert found.what.replace("INTEGER(11)", "INTEGER") == said  # as MariaDB shows it
    assert found.breaks == (change == "column")
    if everywhere or engine.dialect.supports_alter:
        assert await undone(engine, found, model) == []
    else:
        assert found.cure == "SQLite cannot alter that: make a new table, copy the rows, rename it"


@pytest.mark.parametrize("change", ON_SERVERS)
async def test_what_a_server_enforces_is_found(engine: AsyncEngine, change: str) -> None:
    """Sizes and values of an enumeration are part of a type where they are enforced."""
    before, model, said = ON_SERVERS[change]
    await create(engine, before)
    found = await drift(engine, model)
    if not engine.dialect.supports_alter:
        assert found == []
        return
    assert found[0].what.replace("INTEGER(11)", "INTEGER").endswith(said)
    assert await undone(engine, found[0], model) == []


@pytest.mark.parametrize("schema", ["shop", "public"])
async def test_tables_of_a_schema(postgres_database: URL, schema: str) -> None:
    """Tables and types of a schema are found there, also when it is the default one."""
    metadata = MetaData(schema=schema)
    Table("other", metadata, Column("id", sa.Integer, primary_key=True))
    Table(
        "thing",
        metadata,
        Column("id", sa.Integer, primary_key=True),
        Column("other", ForeignKey(f"{schema}.other.id"), index=True),
        Column("mood", sa.Enum("good", name="mood", schema=schema)),
    )
    engine = create_engine(
        DatabaseConfig(url=postgres_database.render_as_string(hide_password=False))
    )
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    await create(engine, metadata)
    assert await drift(engine, metadata) == []
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"ALTER TABLE {schema}.thing DROP COLUMN mood"))
    (found,) = await drift(engine, metadata)
    assert found.what == f"{schema}.thing has no column mood"
    assert await undone(engine, found, metadata) == []
    await engine.dispose()
