"""Fixtures for all tests: a real PostgreSQL, a database for each test, long or short faults."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.authorities import read_once
from support.mariadb import ENVIRONMENT as MARIADB
from support.mariadb import MariaDatabases, mariadb_admin
from support.matrix import MARK, is_row, note_marked
from support.pgbouncer import PgBouncer, pgbouncer_program
from support.postgres import Databases, postgres_url
from support.progress import PROGRESS, Progress, fingerprint

from db_manager.base import Base


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the length of the fault tests."""
    parser.addoption(
        "--faults",
        choices=["short", "full"],
        default="short",
        help="full runs the fault matrix with all its numbers (make faults)",
    )
    parser.addoption(
        "--loop",
        choices=["asyncio", "uvloop"],
        default="asyncio",
        help="uvloop is what aiogram runs a bot on where it is installed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the event loop, and know the rows of the fault matrix and how far a full run is."""
    if config.getoption("--loop") == "uvloop":
        import uvloop  # noqa: PLC0415 -- not there on the lowest versions

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    read_once()
    config.addinivalue_line("markers", f"{MARK}(row, load, result): it is a row of the matrix")
    if config.getoption("--faults") == "full":
        config.stash[PROGRESS] = Progress(config.rootpath / ".faults.json", fingerprint())
        if not hasattr(config, "workerinput"):  # of several processes one hears of all
            config.pluginmanager.register(config.stash[PROGRESS])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no row of the fault matrix, when that is run in full, or has passed."""
    progress = config.stash.get(PROGRESS, None)
    if progress is not None:
        left = [item for item in items if is_row(item) and item.nodeid not in progress.passed]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the row of a marked test; the row of one that fails is not asked for."""
    note_marked(item)


def pytest_collection_finish() -> None:
    """Let the collector of garbage pass by what all modules have made, which takes it 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _passed_by() -> Iterator[None]:
    """Collect the garbage of a module, and let later collections pass by what it has left.

    What pytest keeps of each test, and libraries of each model, grows to a million objects, and a
    test that collects garbage would go through all of them.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _hears_interrupts() -> None:
    """Hear SIGINT: a shell starts background jobs with it ignored, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """True when the fault tests shall run their full numbers."""
    return bool(request.config.getoption("--faults") == "full")


@pytest.fixture(scope="session")
def postgres_admin() -> Iterator[URL]:
    """URL of a PostgreSQL server where databases may be made."""
    with postgres_url() as url:
        yield url


@pytest.fixture(scope="session")
def databases(postgres_admin: URL) -> Databases:
    """Makes and drops databases on that server."""
    return Databases(postgres_admin)


@pytest.fixture
async def postgres_database(databases: Databases) -> AsyncIterator[URL]:
    """URL of a PostgreSQL database of this test's own."""
    url = await databases.create()
    yield url
    await databases.drop(url)


@pytest.fixture
def pgbouncer(postgres_admin: URL) -> Iterator[PgBouncer]:
    """Start PgBouncer before that server, in transaction mode with a pool of 2."""
    with PgBouncer(pgbouncer_program(), postgres_admin) as bouncer:
        yield bouncer


@pytest.fixture
async def mariadb_database() -> AsyncIterator[URL]:
    """URL of a MariaDB database of this test's own; without a server the test is not run."""
    admin = mariadb_admin()
    if admin is None:  # pip has no package of it
        pytest.skip(f"not run: {MARIADB} is not set")
    databases = MariaDatabases(admin)
    url = await databases.create()
    yield url
    await databases.drop(url)


@pytest.fixture
def sqlite_database(tmp_path: Path) -> URL:
    """URL of a SQLite file of this test's own."""
    return URL.create("sqlite+aiosqlite", database=str(tmp_path / "bot.sqlite3"))


@pytest.fixture(params=["asyncpg", "psycopg", "sqlite", "mariadb"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for each driver."""
    kind = "postgres" if request.param in {"asyncpg", "psycopg"} else request.param
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found.set(drivername="postgresql+psycopg") if request.param == "psycopg" else found


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once on SQLite and once on PostgreSQL."""
    url: URL = request.getfixturevalue(f"{request.param}_database")
    return url


@pytest.fixture(params=["fast", "plain"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The runner of the databases that this test opens, once the fast and once the plain one."""
    monkeypatch.setenv("DB_MANAGER_RUNNER", request.param)
    name: str = request.param
    return name


#: The modules of tests that are about the example: its tables have migrations.
_OF_THE_EXAMPLE = ("kit/test_migrations.py", "tests/test_demo.py")


@pytest.fixture(autouse=True)
def _without_the_example(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take the tables of the notes bot, which some module imports, out of all other tests.

    Each start of theirs would apply its migrations, with transactions and log lines.
    """
    metadata = Base.metadata
    table = metadata.tables.get("notes__note")
    if table is None or request.path.as_posix().endswith(_OF_THE_EXAMPLE):
        yield
        return
    metadata.remove(table)
    yield
    metadata._add_table(table.name, table.schema, table)
