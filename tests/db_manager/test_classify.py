"""What errors of drivers mean, by code and phase; the errors are real ones where one can be had."""

import asyncio
import random
import re
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from asyncmy.errors import OperationalError as MariaDbError
from sqlalchemy import exc, text
from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.dialects import classify
from db_manager.dialects.in_use import origin
from db_manager.dialects.known import BY_PACKAGE, dialect_behind
from db_manager.engine.create import create_engine
from db_manager.errors import (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    TransactionAbortedError,
)


class _CodedError(Exception):
    """An error of a driver with a SQLSTATE."""

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


def commit_is_undone(error: BaseException) -> bool:
    """Return what the dialect of the driver that raised *error* says of it as COMMIT's."""
    return dialect_behind(origin(error)).commit_is_undone(error)


def needs_transaction(error: BaseException) -> bool:
    """Return what the dialect of the driver that raised *error* says of its statement."""
    below = origin(error)
    return dialect_behind(below).needs_transaction(below)


def coded(sqlstate: str, **options: Any) -> exc.DBAPIError:
    """Return an error of PostgreSQL."""
    return wrapped(_CodedError("said", sqlstate=sqlstate), **options)


@pytest.mark.parametrize("package", BY_PACKAGE)
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), TimeoutError(), OSError(104, "reset"), ValueError(1062)]
)
def test_no_driver_vouches_for_an_error_of_others(package: str, error: BaseException) -> None:
    """An error of COMMIT that is not the driver's own proves nothing, whatever its arguments."""
    assert not BY_PACKAGE[package].commit_is_undone(error)


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
    [
        (1213, True),
        (1205, True),
        (1020, True),
        (2013, True),
        (1040, True),  # too many connections
        (1053, True),  # shutting down
        (2002, True),  # no server at the socket
        (2003, True),  # no server at the address
        (1062, False),
        (1064, False),
        (1317, False),
    ],
)
def test_mariadb_numbers_decide(number: int, *, retryable: bool) -> None:
    """MariaDB's deadlocks, lock timeouts and lost connections are worth another try."""
    assert classify.is_retryable(wrapped(MariaDbError(number, "said"))) is retryable


@pytest.mark.parametrize("kind", [asyncpg.InternalClientError, asyncpg.ProtocolError])
def test_a_protocol_in_a_wrong_state_is_a_lost_connection(kind: type[Exception]) -> None:
    """A backend died between two steps of a statement; of a COMMIT that says nothing."""
    confused = wrapped(kind("cannot switch to state 12"))
    assert classify.is_disconnect(confused)
    assert classify.is_retryable(confused)
    assert not commit_is_undone(confused)
    assert not classify.is_disconnect(wrapped(asyncpg.OutdatedSchemaCacheError("changed")))


def test_a_killed_statement_leaves_its_connection() -> None:
    """KILL QUERY of MariaDB ends a statement and no connection; of a COMMIT it says nothing."""
    killed = wrapped(MariaDbError(1317, "interrupted"))
    assert not classify.is_disconnect(killed)
    assert not commit_is_undone(killed)


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
    assert (classify.is_other_task_busy(closed), classify.is_retryable(closed)) == (False, True)
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
        (coded("08P01"), False),
        (coded("", invalidated=True), False),
        (coded(""), False),
        (ValueError(), False),
        (TransactionAbortedError(), True),
        (wrapped(MariaDbError(1205, "lock wait")), True),
        (wrapped(MariaDbError(2014, "out of sync")), False),
        (wrapped(sqlite3.InterfaceError("closed")), True),
        (wrapped(asyncpg.InterfaceError("the underlying connection is closed")), True),
        (asyncpg.InternalClientError("cannot switch to state"), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
        (wrapped(MariaDbError(2013, "lost")), False),
    ],
)
def test_after_commit_was_sent(error: BaseException, *, undone: bool) -> None:
    """An error of COMMIT proves the rollback only when the server answered with it."""
    assert commit_is_undone(error) is undone


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


async def is_there(refusal: Awaitable[BaseException]) -> bool:
    """Return True when the server of a refused attempt is there, as the plugin finds out."""
    error = await refusal
    return not classify.is_unavailable(error) or await classify.refuses_us(error)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_real_refusals(driver: str, postgres_database: URL) -> None:
    """A closed port is unavailable, an unknown database or role is a mistake, on each driver."""
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    assert await is_there(refused_by(url.set(host="127.0.0.1", port=1))) is False
    assert await is_there(refused_by(url.set(database="no_such_database"))) is True
    assert await is_there(refused_by(url.set(username="no_such_role"))) is True


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_unknown_host_is_unavailable(driver: str, postgres_database: URL) -> None:
    """A name that does not resolve is unavailable: it may resolve later."""
    url = postgres_database.set(drivername=f"postgresql+{driver}", host="no-such-host.invalid")
    assert await is_there(refused_by(url, tls="disable")) is False


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


#: What was once searched for in texts, and what else a driver might say.
TRIGGERS = (
    "another operation is in progress",
    "manually started transaction",
    "cached plan must not change result type",
    "cached statement plan is invalid due to a database schema or configuration change",
    "authentication failed",
    "does not exist",
    "connection is closed",
    "server closed the connection unexpectedly",
    "could not serialize access",
    "deadlock detected",
    "database is locked",
    "Lock wait timeout exceeded",
    "40001",
    "57P01",
    "(1213, 'Deadlock')",
    "SSL",
)


def classes_below(kind: type[BaseException]) -> list[type[BaseException]]:
    """Return *kind* and every class below it."""
    return [kind, *(each for below in kind.__subclasses__() for each in classes_below(below))]


def classes_of_drivers() -> list[type[BaseException]]:
    """Return the error classes of all drivers that take a text alone."""
    roots = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    found = {
        each
        for root in (*roots, psycopg.Error, sqlite3.Error, MariaDbError.__mro__[-4], OSError)
        for each in classes_below(root)
        if each.__module__.partition(".")[0] in {"asyncpg", "psycopg", "sqlite3", "asyncmy"}
        or each in {OSError, ConnectionError, TimeoutError, ConnectionRefusedError}
    }
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def judged(error: BaseException) -> tuple[object, ...]:
    """Return everything that is decided about *error*."""
    questions = (
        *(classify.sqlstate, needs_transaction, classify.is_disconnect),
        *(classify.is_unavailable, classify.is_uncoded),
        *(classify.is_other_task_busy, commit_is_undone, classify.is_retryable),
    )
    below = origin(error)
    dialect = dialect_behind(below)
    meanings = (dialect.is_undone, dialect.is_unavailable, dialect.is_lost, dialect.is_stale_plan)
    return (
        *(question(error) for question in questions),
        *(meaning(below) for meaning in meanings),
    )


def test_no_word_of_a_text_decides() -> None:
    """What is decided about 10,000 errors of every class depends on no word of their texts."""
    chance = random.Random(1)
    kinds = classes_of_drivers()
    wrappers = (exc.DBAPIError, exc.OperationalError, exc.InterfaceError)
    assert len(kinds) > 300
    seen = 0
    for number in range(10_000):
        kind, wrapper = kinds[number % len(kinds)], chance.choice(wrappers)
        words = [*chance.sample(TRIGGERS, 3), f"name {number}"]
        for texts in (" ".join(words), f"({words[0]}) {words[1]}", f"{words[0]} "):
            said, silent = (wrapped(kind(each), kind=wrapper) for each in (texts, "no"))
            assert judged(said) == judged(silent), (kind, texts)
            assert judged(kind(texts)) == judged(kind("no"))
        seen += 1
    assert seen == 10_000


def test_the_guard_finds_a_search_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same guard rejects a variant that looks for words."""
    monkeypatch.setattr(
        classify, "is_other_task_busy", lambda error: "operation is in progress" in str(error)
    )
    with pytest.raises(AssertionError):
        test_no_word_of_a_text_decides()


def test_a_number_is_mariadbs_only_in_its_own_error() -> None:
    """A number that a user sent, in an error of Python's, is no code of MariaDB."""
    for error in (
        KeyError(2013),
        ValueError(1213),
        exc.StatementError("x", "", {}, KeyError(2013)),
    ):
        assert not classify.is_disconnect(error)
        assert not classify.is_unavailable(error)
        assert not classify.is_retryable(error)


async def test_asyncpgs_constants_are_what_asyncpg_says(postgres_database: URL) -> None:
    """The texts that stand for codes are those of the driver: each is provoked here."""
    connection = await asyncpg.connect(
        postgres_database.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    running = asyncio.create_task(connection.execute("SELECT pg_sleep(10)"))
    await asyncio.sleep(0)
    with pytest.raises(asyncpg.InterfaceError) as busy:
        await connection.execute("SELECT 1")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await connection.execute("BEGIN")
    with pytest.raises(asyncpg.InterfaceError) as manual:
        await connection.transaction().start()
    await connection.close()
    with pytest.raises(asyncpg.InterfaceError) as closed:
        await connection.execute("SELECT 1")
    for caught in (busy, manual):
        assert classify.is_other_task_busy(caught.value)
        assert not classify.is_retryable(wrapped(caught.value, invalidated=True))
    assert classify.is_retryable(wrapped(closed.value, kind=exc.InterfaceError))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_stale_plan_is_worth_another_try(driver: str, postgres_database: URL) -> None:
    """A plan that a migration made stale is found by its code and function."""
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    engine = create_engine(
        DatabaseConfig(url=url.render_as_string(hide_password=False)),
    )
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE plan (a int)"))
        if driver == "psycopg":
            await connection.execute(text("PREPARE stale AS SELECT * FROM plan"))
        else:
            await connection.execute(text("SELECT * FROM plan"))
        await connection.execute(text("ALTER TABLE plan ADD b int"))
        sql = "EXECUTE stale" if driver == "psycopg" else "SELECT * FROM plan"
        adapter = (await connection.get_raw_connection()).dbapi_connection
        if driver == "asyncpg":
            assert adapter is not None
            connection.dialect._invalidate_schema_cache_asof = 0  # type: ignore[attr-defined]  # asyncpg's alone
        with pytest.raises(exc.DBAPIError) as stale:
            await connection.execute(text(sql))
        await connection.rollback()
        with pytest.raises(exc.DBAPIError) as other:
            await connection.execute(
                text("DO $$ BEGIN RAISE 'cached plan' USING ERRCODE='0A000'; END $$")
            )
    await engine.dispose()
    assert classify.sqlstate(stale.value) == classify.sqlstate(other.value) == "0A000"
    assert classify.is_retryable(stale.value)
    assert not classify.is_retryable(other.value)


def test_no_module_searches_the_text_of_an_error() -> None:
    """Nowhere in db_manager is `in` or `startswith` asked of the text of an error."""
    names = r"(?:str\(|repr\(|said\b|message\b|error\b|exc\b|wrong\b|reason\b)"
    search = re.compile(rf"\bin {names}|str\([a-z_.]*\)\.(?:startswith|endswith|find)")
    assert search.search('"x" in str(error)')
    assert search.search('"SSL" in said')
    assert search.search('str(error).startswith("x")')
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(Path(classify.__file__).parent.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if search.search(line)
    ]
    assert found == []
