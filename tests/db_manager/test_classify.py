"""What errors of drivers mean, by code and phase; the errors are real ones where one can be had."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import exc, text
from sqlalchemy.engine import URL

from db_manager import classify
from db_manager.config import DatabaseConfig
from db_manager.engine import create_engine
from db_manager.errors import CommitOutcomeUnknownError, DatabaseUnavailableError, one_line


class _CodedError(Exception):
    """An error of a driver with a SQLSTATE or an error number."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


def wrapped(
    original: BaseException,
    *,
    invalidated: bool = False,
    kind: type[exc.DBAPIError] = exc.DBAPIError,
) -> exc.DBAPIError:
    """Return *original* as SQLAlchemy raises it."""
    return kind("SELECT 1", None, original, connection_invalidated=invalidated)


def coded(sqlstate: str, **options: Any) -> exc.DBAPIError:
    """Return an error of PostgreSQL."""
    return wrapped(_CodedError("said", sqlstate=sqlstate), **options)


@pytest.mark.parametrize(
    ("sqlstate", "retryable"),
    [
        ("40001", True),  # serialization failure
        ("40P01", True),  # deadlock
        ("55P03", True),  # lock not available
        ("25006", True),  # read-only after a failover
        ("57P03", True),  # cannot connect now
        ("53300", True),  # too many connections
        ("57P01", True),  # terminated by an administrator
        ("57P02", True),  # crash of another session
        ("08006", True),  # connection failure
        ("25P03", True),  # idle in transaction too long
        ("57014", False),  # statement timeout: load, not luck
        ("53100", False),  # disk full
        ("23505", False),  # unique violation
        ("23P01", False),  # exclusion violation
        ("25P02", False),  # in failed transaction
        ("42P01", False),  # no such table
        ("22001", False),  # value too long
    ],
)
def test_sqlstate_decides(sqlstate: str, *, retryable: bool) -> None:
    """A unit is worth another try exactly after the codes that say nothing was written."""
    assert classify.is_retryable(coded(sqlstate)) is retryable


@pytest.mark.parametrize(
    ("number", "retryable"),
    [(1213, True), (1205, True), (1020, True), (2013, True), (1062, False), (1064, False)],
)
def test_mariadb_numbers_decide(number: int, *, retryable: bool) -> None:
    """MariaDB's deadlocks, lock timeouts and lost connections are worth another try."""
    assert classify.is_retryable(wrapped(_CodedError(number, "said"))) is retryable


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        ValueError("40001"),
        CommitOutcomeUnknownError(1, "no answer"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_no_error_of_a_driver_is_never_retried(error: BaseException) -> None:
    """A cancellation, an unknown outcome or any other error is not tried again."""
    assert not classify.is_retryable(error)


def test_an_unreachable_database_is_worth_another_try() -> None:
    """Nothing was begun when the server could not be reached."""
    assert classify.is_retryable(DatabaseUnavailableError("refused"))


def test_client_refusals() -> None:
    """A closed connection is worth another try, one that another task uses is a mistake."""
    closed = wrapped(asyncpg.InterfaceError("connection is closed"), kind=exc.InterfaceError)
    busy = wrapped(
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        kind=exc.InterfaceError,
    )
    assert (classify.is_client_refusal(closed), classify.is_retryable(closed)) == (True, True)
    assert (classify.is_other_task_busy(busy), classify.is_retryable(busy)) == (True, False)


@pytest.mark.parametrize(
    ("error", "undone"),
    [
        (coded("23505"), True),  # a deferred constraint
        (coded("40001"), True),
        (coded("57014"), True),
        (coded("57P01"), False),
        (coded("40003"), False),  # the server does not know itself
        (coded("08007"), False),
        (coded("", invalidated=True), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
        (wrapped(_CodedError(2013, "lost")), False),
    ],
)
def test_after_commit_was_sent(error: BaseException, *, undone: bool) -> None:
    """An error of COMMIT proves the rollback only when the server answered with it."""
    assert classify.commit_is_undone(error) is undone


async def refused_by(url: URL, **keys: Any) -> BaseException:
    """Return what a real connection attempt to *url* says."""
    engine = create_engine(DatabaseConfig(url=url.render_as_string(hide_password=False), **keys))
    try:
        async with engine.connect():
            raise AssertionError("it let us in")
    except (OSError, exc.DBAPIError) as error:
        return error
    finally:
        await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_real_refusals(driver: str, postgres_database: URL) -> None:
    """A closed port is unavailable, an unknown database or role is a mistake, on each driver."""
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    assert classify.is_unavailable(await refused_by(url.set(host="127.0.0.1", port=1)))
    assert not classify.is_unavailable(await refused_by(url.set(database="no_such_database")))
    assert not classify.is_unavailable(await refused_by(url.set(username="no_such_role")))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_unknown_host_is_unavailable(driver: str, postgres_database: URL) -> None:
    """A name that does not resolve is unavailable: it may resolve later."""
    url = postgres_database.set(drivername=f"postgresql+{driver}", host="no-such-host.invalid")
    assert classify.is_unavailable(await refused_by(url, tls="disable"))


def test_sqlite_busy(tmp_path: Path) -> None:
    """SQLite's BUSY is worth another try, its constraint errors are not."""
    first, second = (
        sqlite3.connect(tmp_path / "busy.sqlite3", timeout=0, isolation_level=None)
        for _ in range(2)
    )
    first.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    first.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as constraint:
        first.execute("INSERT INTO t VALUES (1)")
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as busy:
        second.execute("BEGIN IMMEDIATE")
    first.close()
    second.close()
    assert classify.is_retryable(wrapped(busy.value))
    assert not classify.is_retryable(wrapped(constraint.value))


async def test_one_line_hides_the_users_values(postgres_database: URL) -> None:
    """What an error is called in events has neither SQL nor parameters nor the detail's values."""
    url = postgres_database.render_as_string(hide_password=False)
    engine = create_engine(DatabaseConfig(url=url))
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE t (word TEXT PRIMARY KEY)"))
        insert, word = text("INSERT INTO t VALUES (:word)"), {"word": "c4n4ry"}
        await connection.execute(insert, word)
        with pytest.raises(exc.IntegrityError) as caught:
            await connection.execute(insert, word)
    await engine.dispose()
    said = one_line(caught.value)
    assert said == ('UniqueViolationError: duplicate key value violates unique constraint "t_pkey"')
