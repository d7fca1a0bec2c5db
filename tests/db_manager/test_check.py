import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.engine import URL
from support.postgres import PostgresServer

from db_manager.check import command as check
from db_manager.check.diagnosis import diagnose
from db_manager.check.finding import Finding
from db_manager.config import DatabaseConfig
from db_manager.dialects.postgresql.asyncpg import Asyncpg
from db_manager.engine.create import create_engine
from db_manager.schema import create_missing_tables
from lifecycle.errors import ConfigError

#: A table that the databases of these tests miss at first.
METADATA = MetaData()
Table("check_tests__checked", METADATA, Column("id", Integer, primary_key=True))


def config_of(url: URL, **keys: object) -> DatabaseConfig:
    """Return the section [database] for a database of the tests."""
    return DatabaseConfig.model_validate({"url": url.render_as_string(hide_password=False), **keys})


async def found(config: DatabaseConfig) -> dict[str, Finding]:
    """Return what was found, by what it is about."""
    return {finding.about: finding for finding in await diagnose(config, METADATA)}


def shown(config: Path) -> tuple[int, str]:
    """Return the exit code and the text of `db-manager check` for a configuration."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            code = check.run(_Options(config))  # type: ignore[arg-type] # what argparse would give
        except ConfigError as error:
            return 2, str(error)
    return code, output.getvalue()


class _Options:
    def __init__(self, config: Path) -> None:
        self.config = config


async def test_a_database_that_is_there_is_described(database_url: URL) -> None:
    """Driver, version, encryption, pool, tables and clock of a real server; no password."""
    config = config_of(database_url)
    engine = create_engine(config)
    await create_missing_tables(engine, METADATA)
    await engine.dispose()
    findings = await found(config)
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["database"].text.startswith(database_url.drivername)
    assert findings["tables"].text == "1 of 1 exists"
    assert "10 connections, 0 more when all are busy" in findings["pool"].text
    if database_url.get_backend_name() == "sqlite":
        assert "SQLite 3." in findings["server"].text
        assert findings["tls"].text == "not needed: it is a file"
        assert "clock" not in findings
    else:
        assert "PostgreSQL " in findings["server"].text
        assert findings["tls"].text == "off: the database is on this machine"
        assert "as many again for reading; the server allows " in findings["pool"].text
        assert " s ahead of ours" in findings["clock"].text or "behind" in findings["clock"].text
    said = "\n".join(finding.text for finding in findings.values())
    assert database_url.password is None or database_url.password not in said


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (1, "1 connection, 0 more when it is busy; a unit waits"),
        (2, "2 connections, 0 more when all are busy; a unit waits"),
    ],
)
async def test_a_pool_of_one_is_told_in_the_singular(tmp_path: Path, size: int, said: str) -> None:
    """A pool of one connection has one connection, and one of two has two."""
    url = URL.create("sqlite+aiosqlite", database=str(tmp_path / "bot.sqlite3"))
    (tmp_path / "bot.sqlite3").touch()
    findings = await found(config_of(url, pool_size=size))
    assert findings["pool"].text.startswith(said)


async def test_missing_tables_are_named_and_not_created(database_url: URL) -> None:
    """A check changes nothing; without create_tables the bot would fail, and the fix is said."""
    engine = create_engine(config_of(database_url))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE other (id integer)"))  # makes SQLite's file
    for _ in range(2):
        findings = await found(config_of(database_url))
        assert findings["tables"].level == "ok"
        assert "check_tests__checked" in findings["tables"].text
    refused = (await found(config_of(database_url, create_tables=False)))["tables"]
    assert refused.level == "problem"
    assert "check_tests__checked" in refused.text
    assert "set [database] create_tables = true" in refused.text
    await engine.dispose()


async def test_a_table_that_differs_is_told_with_its_cure(database_url: URL) -> None:
    """Each difference is one line with the statement against it, and a problem."""
    engine = create_engine(config_of(database_url))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE check_tests__checked (other integer)"))
    await engine.dispose()
    findings = await found(config_of(database_url))
    assert findings["tables"].text == "1 of 1 exists"
    assert findings["drift"].level == "problem"
    first, *_, last = findings["drift"].text.splitlines()
    assert first == (
        "check_tests__checked has no column id; ALTER TABLE check_tests__checked ADD COLUMN "
        + {"sqlite": "id INTEGER NOT NULL", "postgresql": "id SERIAL NOT NULL"}[
            database_url.get_backend_name()
        ]
        + " DEFAULT … (with the value for rows that are there)"
    )
    assert last.startswith("run your migrations")


async def test_a_sqlite_file_is_not_made_by_a_check(sqlite_database: URL, tmp_path: Path) -> None:
    """Without a file there is none after the check; without its folder the bot cannot start."""
    findings = await found(config_of(sqlite_database))
    assert findings["connect"].text == "the file does not exist yet; the first start creates it"
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- ruff wants no pathlib in async tests
    nowhere = sqlite_database.set(database=str(tmp_path / "no" / "bot.sqlite3"))
    findings = await found(config_of(nowhere))
    assert findings["connect"].level == "problem"
    assert f"there is no directory {tmp_path / 'no'}: create it" in findings["connect"].text


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    """Bytes that are no SQLite database are refused in words."""
    file = tmp_path / "bot.sqlite3"
    file.write_text("no database " * 100)
    url = URL.create("sqlite+aiosqlite", database=str(file))
    refused = (await found(config_of(url)))["connect"]
    assert refused.level == "problem"
    assert "file is not a database" in refused.text
    assert "[database] is the file a SQLite database" in refused.text


async def test_a_wrong_name_comes_with_its_fix(postgres_database: URL) -> None:
    """A database or a port that is not there is named with the key to change."""
    findings = await found(config_of(postgres_database.set(database="no_such_database")))
    assert findings["connect"].level == "problem"
    assert "[database] database: it does not exist" in findings["connect"].text
    findings = await found(config_of(postgres_database.set(host="127.0.0.1", port=1, query={})))
    assert findings["connect"].level == "problem"
    assert "[database] host, port: connection refused" in findings["connect"].text


async def test_encryption_is_asked_for_where_it_is_needed(postgres_database: URL) -> None:
    """A host that is not local must encrypt; without, the check says who could listen."""
    everywhere = postgres_database.set(host="0.0.0.0")  # noqa: S104 -- this machine, by a name that is not local
    refused = (await found(config_of(everywhere)))["connect"]
    assert refused.level == "problem"
    assert "[database] tls: the server does not support TLS" in refused.text
    clear = (await found(config_of(everywhere, tls="disable")))["tls"]
    assert clear.level == "warning"
    assert clear.text == "off, and 0.0.0.0 is not this machine; set [database] tls = 'verify'"


async def test_a_wrong_password_comes_with_its_fix() -> None:
    """A refused password is said, with the variables that set it, and is not shown."""
    with PostgresServer(password="canary-right") as server:
        url = server.url().set(password="canary-wrong")
        refused = (await found(config_of(url)))["connect"]
    assert refused.level == "problem"
    assert "[database] password: it is wrong; set DATABASE__PASSWORD" in refused.text
    assert "canary" not in refused.text


async def test_too_large_a_pool_is_warned_about(postgres_database: URL) -> None:
    """A pool that the server cannot fill is a warning with both numbers."""
    pool = (await found(config_of(postgres_database, pool_size=5000)))["pool"]
    assert pool.level == "warning"
    assert pool.text.startswith("5000 connections, 0 more")
    assert pool.text.endswith("of the server; lower [database] pool_size")


async def test_clocks_that_differ_are_warned_about(
    postgres_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a second between the clocks is a warning that says who is ahead."""
    query = "SELECT extract(epoch FROM clock_timestamp()) - 90"
    monkeypatch.setattr(Asyncpg, "clock_query", query)
    clock = (await found(config_of(postgres_database)))["clock"]
    assert clock.level == "warning"
    assert "behind ours" in clock.text
    assert 89 < float(clock.text.split()[3]) < 91


CONFIG = """
[app]
plugins = ["db_manager"]
[database]
database = "{folder}/bot.sqlite3"
"""


def test_a_right_configuration_is_understood(tmp_path: Path) -> None:
    """`db-manager check` says what it looked at, changes nothing, and ends with 0."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIG.format(folder=tmp_path))
    code, text = shown(file)
    assert code == 0
    assert text.splitlines()[:4] == [
        f"✓ config     {file} is valid",
        "✓ plugins    db_manager",
        f"✓ database   sqlite+aiosqlite, {tmp_path}/bot.sqlite3",
        "✓ connect    the file does not exist yet; the first start creates it",
    ]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[app]", "[app]\ngrase = 3"), "[app] grase: unknown key (did you mean 'grace'?)"),
        (('"db_manager"', '"db_manger"'), "'db_manger' is neither an entry point"),
        (("[database]", "[databse]"), "[databse]: nobody reads this section"),
        (("[database]", "[database]\npool_size = 0"), "[database] pool_size: "),
        (
            ("[database]", "[database]\ndriver = 'sqlite'"),
            "[database] driver: 'sqlite' is not async",
        ),
        (("[app]", "[app"), "config.toml: "),
        (
            ("[app]", "[observability]\nlvl = 'x'\n[app]"),
            "[observability] lvl: unknown key (did you mean 'level'?)",
        ),
        (
            ("[app]", "[observability]\nendpoint = '9100:localhost'\n[app]"),
            "[observability] endpoint: '9100:localhost' is not an address; write host:port",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_key(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    """Each fault of the file is one line with the key, and the exit code is 1."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIG.format(folder=tmp_path).replace(*change))
    code, text = shown(file)
    assert code == 1
    (line, *_) = [line for line in text.splitlines() if line.startswith("✗")]
    assert says in line
    assert "Traceback" not in text


def test_what_a_key_needs_to_be_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key whose extra is missing is found by the check, before the bot is started."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    file = tmp_path / "config.toml"
    file.write_text(CONFIG.format(folder=tmp_path) + "[observability]\nmetrics = true\n")
    code, text = shown(file)
    assert code == 1
    assert "✗ config     [observability] metrics: " in text
    assert "install db-manager[metrics]" in text


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    """Faults of several sections need one check, and each is said once."""
    file = tmp_path / "config.toml"
    text = CONFIG.format(folder=tmp_path).replace("[database]", "[database]\npool_sise = 1")
    file.write_text(text + "[observability]\nlvl = 'x'\n[observabilty]\n")
    code, text = shown(file)
    assert code == 1
    for fault in (
        "[observabilty]: nobody reads this section (did you mean 'observability'?)",
        "[observability] lvl: unknown key (did you mean 'level'?)",
        "[database] pool_sise: unknown key (did you mean 'pool_size'?)",
    ):
        assert text.count(fault) == 1


def test_without_a_configuration_there_is_nothing_to_check(tmp_path: Path) -> None:
    """A file that is not there is exit code 2."""
    code, text = shown(tmp_path / "config.toml")
    assert code == 2
    assert text.endswith("there is no such file; pass yours with --config")
