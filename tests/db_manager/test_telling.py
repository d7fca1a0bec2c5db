"""What is told of databases' errors on each driver, and of statements."""

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from support.failing import FUNCTIONS, WAYS, Told

from db_manager.dialects.mysql.mysql import MySQL
from db_manager.dialects.postgresql.postgresql import PostgreSQL
from db_manager.dialects.safe_text import connection_text, statement_text
from db_manager.dialects.sqlite.aiosqlite import Aiosqlite
from db_manager.errors import CommitOutcomeUnknownError, DatabaseUnavailableError
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.error_text import tell, tell_text

OpenDatabase = Callable[..., object]

#: What is told of some ways to fail: by the driver, without the place.
LINES = {
    "asyncpg": {
        "duplicate": "UniqueViolationError: 23505, constraint uq_told__row_name, table told__row",
        "check": "CheckViolationError: 23514, constraint ck_told__row_age_is_human",
        "null": "NotNullViolationError: 23502, table told__row, column age",
        "cast": "DataError: 22000, in 'SELECT CAST($1 AS INTEGER) + ?'",
        "no_table": "UndefinedTableError: 42P01, position 15, in 'SELECT ? FROM nowhere WHERE",
        "late": "UniqueViolationError: 23505, constraint told_late_name_key, table told_late",
        "raised": "RaiseError: P0001, in 'SELECT told_raise($1, …'",
        "by_driver": "UndefinedTableError: 42P01, position 22",
        "not_json": "StatementError: of TypeError",
    },
    "psycopg": {
        "duplicate": "UniqueViolation: 23505, constraint uq_told__row_name, table told__row",
        "null": "NotNullViolation: 23502, table told__row, column age",
        "cast": "InvalidTextRepresentation: 22P02, in 'SELECT CAST(%(v)s AS INTEGER) + ?'",
        "odd_value": "ProgrammingError: in 'SELECT %(v)s'",
    },
    "aiosqlite": {
        "duplicate": "IntegrityError: SQLITE_CONSTRAINT_UNIQUE, in 'INSERT INTO told__row",
        "check": "IntegrityError: SQLITE_CONSTRAINT_CHECK, in 'INSERT INTO told__row",
        "no_table": "OperationalError: SQLITE_ERROR, in 'SELECT ? FROM nowhere WHERE name = …'",
    },
    "asyncmy": {
        "duplicate": "IntegrityError: 1062 DUP_ENTRY, in 'INSERT INTO told__row",
        "no_table": "ProgrammingError: 1146 NO_SUCH_TABLE, in 'SELECT ? FROM nowhere",
    },
}


@pytest.fixture(params=LINES)
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, on each driver."""
    kind = {"aiosqlite": "sqlite", "asyncmy": "mariadb"}.get(request.param, "postgres")
    url: URL = request.getfixturevalue(f"{kind}_database")
    return url.set(drivername=f"postgresql+{request.param}") if kind == "postgres" else url


async def test_a_line_says_what_the_driver_knows(url: URL, open_database: OpenDatabase) -> None:
    """Codes, constraints, tables and columns are told, and the statement when there is no table."""
    factory = UnitOfWorkFactory(open_database(url))  # type: ignore[arg-type] # a Database
    async with factory() as uow:
        await (await uow.session.connection()).run_sync(
            lambda connection: Told.metadata.create_all(
                connection, [Told.__table__], checkfirst=False
            )
        )
        for statement in FUNCTIONS if url.get_backend_name() == "postgresql" else ():
            await uow.session.execute(text(statement))
    for name, line in LINES[url.get_driver_name()].items():
        assert (await _told(WAYS[name].fail(factory))).startswith(line)


async def _told(failing: Awaitable[object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- any
        await failing
    assert tell_text(caught.value) == tell(caught.value)  # no text of a database, in a hook either
    return tell(caught.value)


def test_errors_of_sqlalchemy_and_ours() -> None:
    """SQLAlchemy's own errors have the number of their page, ours the text they compose."""
    assert tell(PoolTimeoutError("c4n4ry", code="3o7r")) == "TimeoutError: sqlalche.me/e/3o7r"
    assert tell(SQLAlchemyError("c4n4ry")) == "SQLAlchemyError"
    assert tell(DBAPIError("SELECT 1", {"v": "c4n4ry"}, KeyError("c4n4ry"))).startswith("KeyError")
    assert "refused" in tell(DatabaseUnavailableError("refused"))
    assert "no answer" in tell(CommitOutcomeUnknownError(1, "no answer"))


def test_what_a_connection_attempt_said_has_its_text() -> None:
    """Nothing of a user was sent yet: an operator needs the host and the reason."""
    assert connection_text(ConnectionRefusedError(111, "to db:5432")).endswith("to db:5432")
    assert connection_text(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        (
            "SELECT t1.id, count_1 FROM t1 WHERE id = $1",
            "SELECT t1.id, count_1 FROM t1 WHERE id = $1",
        ),
        ("WHERE a = %(a_1)s AND b = :b1 AND c = ?1", "WHERE a = %(a_1)s AND b = :b1 AND c = ?1"),
        ("CAST($1 AS VARCHAR(20))", "CAST($1 AS VARCHAR(?))"),
        ("$1::NUMERIC(10, 2) LIMIT 5", "$1::NUMERIC(?, ?) LIMIT ?"),
        ("WHERE id = 42 AND p > 1.5e-3 AND h = 0xFF", "WHERE id = ? AND p > ?-? AND h = ?"),
        ("WHERE id=-42", "WHERE id=-?"),
        ("name = 'it''s' AND x = 1", "name = …"),
        ("name = 'x' OR canary = 'y'", "name = …"),
        ("name = E'\\'canary'", "name = E…"),
        ("a -- canary\n b", "a …"),
        ("a /* canary */ b", "a …"),
        ("a = $$canary$$", "a = …"),
        ("a = $tag$canary$tag$", "a = …"),
        ('SELECT "user"."x 1" FROM "user"', 'SELECT "user"."x ?" FROM "user"'),
        ("a #>> $1", "a #>> $1"),
        ("", ""),
    ],
)
def test_a_statement_is_shown_without_literals(sql: str, shown: str) -> None:
    """Numbers are question marks; at the first text, comment or quoted body the statement ends."""
    assert statement_text(sql, PostgreSQL()) == shown


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ('SELECT x FROM t WHERE name = "ada secret"', "SELECT x FROM t WHERE name = …"),
        ('SELECT "user"."order" FROM "user" AS u', 'SELECT "user"."order" FROM "user" AS u'),
        ('INSERT INTO "user" VALUES ("ada")', 'INSERT INTO "user" VALUES (…'),
        ("SELECT 'a' || \"b\"", "SELECT …"),
        ('SELECT "open', "SELECT …"),
        ("SELECT 1 -- c", "SELECT ? …"),
    ],
)
def test_sqlite_takes_an_unknown_name_for_a_text(sql: str, shown: str) -> None:
    """A double quote ends the statement where a text may stand, and not where only a name may."""
    assert statement_text(sql, Aiosqlite()) == shown


def test_mariadb_has_more_ways_to_write_a_text() -> None:
    """There a double quote begins a text, and # a comment; names are in backticks."""
    assert statement_text('SELECT `user`.x FROM t WHERE a = "c"', MySQL()) == (
        "SELECT `user`.x FROM t WHERE a = …"
    )
    assert statement_text("SELECT 1 # c", MySQL()) == "SELECT ? …"
