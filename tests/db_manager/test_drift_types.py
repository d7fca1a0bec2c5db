"""A table that `create_all` has just made does not drift, whatever the types of its columns."""

import enum
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.base import NAMING_CONVENTION
from db_manager.config import DatabaseConfig
from db_manager.drift.difference import Difference
from db_manager.drift.look import differences
from db_manager.engine.create import create_engine


class Mood(enum.Enum):
    """A Python enumeration."""

    GOOD = 1
    BAD = 2


class Upper(sa.TypeDecorator[str]):
    """A type of a bot's own."""

    impl = sa.String(30)
    cache_ok = True


#: Types for every database.
USUAL: dict[str, Any] = {
    "big": sa.BigInteger(),
    "big_on_sqlite": sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    "boolean": sa.Boolean(),
    "boolean_checked": sa.Boolean(create_constraint=True, name="boolean_checked"),
    "bytes": sa.LargeBinary(),
    "bytes_sized": sa.LargeBinary(100),
    "char": sa.CHAR(),
    "char_sized": sa.CHAR(3),
    "collated": sa.String(20).with_variant(sa.String(20, collation="C"), "postgresql"),
    "date": sa.Date(),
    "datetime": sa.DateTime(),
    "datetime_zoned": sa.DateTime(timezone=True),
    "decimal": sa.DECIMAL(12, 4),
    "decorated": Upper(),
    "double": sa.Double(),
    "enum": sa.Enum(Mood, name="mood"),
    "enum_checked": sa.Enum(
        "a", "b", native_enum=False, create_constraint=True, name="enum_checked"
    ),
    "enum_text": sa.Enum(Mood, native_enum=False),
    "enum_words": sa.Enum("it's", "so", name="words"),
    "float": sa.Float(),
    "float_24": sa.Float(24),
    "float_53": sa.Float(53),
    "integer": sa.Integer(),
    "interval": sa.Interval(),
    "json": sa.JSON(),
    "json_b": sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
    "numeric": sa.Numeric(),
    "numeric_10": sa.Numeric(10),
    "numeric_10_2": sa.Numeric(10, 2),
    "pickle": sa.PickleType(),
    "real": sa.REAL(),
    "small": sa.SmallInteger(),
    "string": sa.String(50),
    "text": sa.Text(),
    "time": sa.Time(),
    "time_zoned": sa.Time(timezone=True),
    "timestamp": sa.TIMESTAMP(),
    "timestamp_zoned": sa.TIMESTAMP(timezone=True),
    "unicode": sa.Unicode(50),
    "unicode_text": sa.UnicodeText(),
    "uuid": sa.Uuid(),
    "uuid_text": sa.Uuid(native_uuid=False),
    "varchar": sa.VARCHAR(10),
}
#: Types for one database, by the beginning of its name.
SPECIAL: dict[str, dict[str, Any]] = {
    "sqlite": {
        "string_unsized": sa.String(),
    },
    "postgresql": {
        "array": sa.ARRAY(sa.Integer()),
        "array_deep": sa.ARRAY(sa.String(20), dimensions=2),
        "array_text": postgresql.ARRAY(sa.Text()),
        "array_enum": sa.ARRAY(sa.Enum("x", "y", name="xy")),
        "array_float": sa.ARRAY(sa.Float()),
        "bit": postgresql.BIT(4),
        "bit_varying": postgresql.BIT(varying=True),
        "capital_enum": sa.Enum("a", name="Capital"),
        "cidr": postgresql.CIDR(),
        "citext_less": postgresql.TSVECTOR(),
        "domain": postgresql.DOMAIN("positive_number", sa.Integer()),
        "enum_schema": sa.Enum("a", name="of_public", schema="public"),
        "inet": postgresql.INET(),
        "interval_precise": postgresql.INTERVAL(precision=3),
        "interval_fields": postgresql.INTERVAL(fields="DAY TO SECOND"),
        "jsonb": postgresql.JSONB(),
        "macaddr": postgresql.MACADDR(),
        "money": postgresql.MONEY(),
        "range": postgresql.INT4RANGE(),
        "multirange": postgresql.TSTZMULTIRANGE(),
        "string_unsized": sa.String(),
        "timestamp_precise": postgresql.TIMESTAMP(timezone=True, precision=3),
        "unsized": sa.Unicode(),
        "uuid_pg": postgresql.UUID(),
    },
    "mysql": {
        "bit": mysql.BIT(4),
        "datetime_precise": mysql.DATETIME(fsp=6),
        "double_sized": mysql.DOUBLE(10, 2),
        "enum_mysql": mysql.ENUM("a", "b"),
        "integer_wide": mysql.INTEGER(display_width=5),
        "long_text": mysql.LONGTEXT(),
        "medium": mysql.MEDIUMINT(unsigned=True),
        "national": sa.NVARCHAR(20),
        "set": mysql.SET("a", "b"),
        "text_sized": sa.Text(1000),
        "tiny": mysql.TINYINT(1),
        "unsigned": mysql.BIGINT(unsigned=True),
        "varbinary": sa.VARBINARY(16),
        "varchar_set": mysql.VARCHAR(20, charset="latin1"),
        "year": mysql.YEAR(),
        "zerofill": mysql.INTEGER(zerofill=True),
    },
}


def types_of(url: URL) -> dict[str, Any]:
    """Return the types that a database is tried with."""
    special = {"mariadb": "mysql"}.get(backend := url.get_backend_name(), backend)
    return USUAL | SPECIAL[special]


async def drift(engine: AsyncEngine, metadata: MetaData) -> list[Difference]:
    """Return what differs."""
    async with engine.connect() as connection:
        return await connection.run_sync(differences, metadata)


@pytest.fixture
async def engine(any_database_url: URL) -> Any:
    """An engine on each database and driver."""
    engine = create_engine(
        DatabaseConfig(url=any_database_url.render_as_string(hide_password=False))
    )
    yield engine
    await engine.dispose()


async def test_types(engine: AsyncEngine) -> None:
    """None of the types differs from itself, NULL or not."""
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    for nullable in (True, False):
        columns = [
            Column(name, kind, nullable=nullable) for name, kind in types_of(engine.url).items()
        ]
        Table(f"t_{nullable}", metadata, Column("id", sa.Integer, primary_key=True), *columns)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await drift(engine, metadata) == []
