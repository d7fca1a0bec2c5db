"""Backups: whole or not at all, of one moment, while units write."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from support.forks import forked
from support.postgres_binaries import installed_tree

from db_manager import BackupError, DatabaseConfig, UnitOfWork, backup, create_engine
from db_manager.backups.series import Series
from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.dialects.sqlite import copying
from db_manager.dialects.sqlite.connection import SqliteConnection

#: So many rows of a kilobyte that the copy takes several steps.
ROWS = 12_000
CANARY = "c4n4ry-of-the-role"
#: Writes down what it was given.
RECORDS = """#!/bin/sh
if [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.1"; exit; fi
echo "$@" > "$RECORD.arguments"
env | grep ^PG > "$RECORD.environment"
"""
OLD = """#!/bin/sh
echo "pg_dump (PostgreSQL) 9.6.24"
"""
HANGS = """#!/bin/sh
if [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.1"; exit; fi
echo begun > "$RECORD"
exec sleep 1000
"""
#: A program that empties a database, and ends without closing it.
LEAVES_ITS_LOG = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("DELETE FROM backup_test__purse")
connection.commit()
os._exit(0)
"""
#: A program that is killed in the middle of its backup.
KILLED = """
import asyncio, os, signal, sys, threading
from db_manager import DatabaseConfig, backup, create_engine
from db_manager.dialects.sqlite import copying

class Event(threading.Event):
    def is_set(self):
        os.kill(os.getpid(), signal.SIGKILL)

copying.Event = Event
engine = create_engine(DatabaseConfig(database=sys.argv[1]))
asyncio.run(backup(engine, sys.argv[2]))
"""


class Purse(Base):
    """Money that only moves."""

    __tablename__ = "backup_test__purse"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    money: Mapped[int]
    note: Mapped[str]


@pytest.fixture
async def database(database_url: URL, open_database: Callable[..., Database]) -> Database:
    """A database with many purses, once on SQLite and once on PostgreSQL."""
    return await with_purses(open_database(database_url), ROWS)


@pytest.fixture
async def file(sqlite_database: URL, open_database: Callable[..., Database]) -> Database:
    """A SQLite file with two purses."""
    return await with_purses(open_database(sqlite_database), 2)


async def with_purses(database: Database, rows: int) -> Database:
    """Make the table, with as many rows."""
    async with database.engine.begin() as connection:
        table = Base.metadata.tables[Purse.__tablename__]
        await connection.run_sync(Base.metadata.create_all, [table])
        purses = [{"id": n, "money": 100, "note": "n" * 1000} for n in range(rows)]
        await connection.execute(insert(Purse), purses)
    return database


def program(folder: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `pg_dump` that is this script before all others; return the file for its record."""
    folder.mkdir(exist_ok=True)
    script = folder / "pg_dump"
    script.write_text(said)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(folder / "record"))
    return folder / "record"


def names(folder: Path) -> set[str]:
    """Return the names of the files in *folder*, without those of the database itself."""
    return {each.name for each in folder.iterdir() if not each.name.startswith("bot.sqlite3")}


async def totals(copy: Path, database: Database) -> tuple[int, int]:
    """Return how many purses and how much money a backup has."""
    query = select(func.count(), func.sum(Purse.money)).select_from(Purse)
    if database.engine.dialect.name == "sqlite":
        engine = create_async_engine(f"sqlite+aiosqlite:///{copy}")
    else:
        restored = database.engine.url.set(database=f"{database.engine.url.database}_restored")
        engine = create_async_engine(restored.set(drivername="postgresql+asyncpg"))
        async with database.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text(f'CREATE DATABASE "{restored.database}"'))
        url = restored.set(drivername="postgresql").render_as_string(hide_password=False)
        restore = await asyncio.create_subprocess_exec("pg_restore", "-d", url, str(copy))
        assert await restore.wait() == 0
    async with engine.connect() as connection:
        row = (await connection.execute(query)).one()
    await engine.dispose()
    if database.engine.dialect.name != "sqlite":
        async with database.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text(f'DROP DATABASE "{restored.database}"'))
    return int(row[0]), int(row[1])


async def test_a_backup_is_of_one_moment_while_units_write(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units commit all the time; the backup ends nevertheless, and no money is on its way."""
    monkeypatch.setenv("PATH", f"{installed_tree() / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(copying, "_PAGES", 20)  # so many steps that a commit is between some
    left: list[int] = []
    copies = SqliteConnection.backup

    async def watched(self: SqliteConnection, target: Any, **options: Any) -> None:
        look = options.pop("progress")

        def progress(status: int, remaining: int, pages: int) -> None:
            left.append(remaining)
            look(status, remaining, pages)

        await copies(self, target, progress=progress, **options)

    monkeypatch.setattr(SqliteConnection, "backup", watched)
    copy, done, moved = tmp_path / "copy.db", asyncio.Event(), 0

    async def move() -> None:
        nonlocal moved
        while not done.is_set():
            async with UnitOfWork(database) as uow:
                giver, taker = moved % ROWS, (moved + 7) % ROWS
                for purse, change in ((giver, -1), (taker, 1)):
                    await uow.session.execute(
                        update(Purse)
                        .where(Purse.id == purse)
                        .values(money=Purse.money + change, note=f"{moved}" * 200)
                    )
            moved += 1

    writer = asyncio.create_task(move())
    before = moved
    await backup(database.engine, copy)
    assert moved > before
    done.set()
    await writer
    assert left == sorted(left, reverse=True)  # it never began again
    assert await totals(copy, database) == (ROWS, ROWS * 100)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names(tmp_path) == {"copy.db"}


@pytest.mark.parametrize("own", [True, False], ids=["of-one's-own", "in-memory"])
async def test_any_engine_of_sqlite_can_be_copied(tmp_path: Path, *, own: bool) -> None:
    """One of `create_async_engine`, and a database that is in memory only."""
    url = f"sqlite+aiosqlite:///{tmp_path}/bot.sqlite3" if own else "sqlite+aiosqlite:///:memory:"
    engine = (
        create_async_engine(url)
        if own
        else create_engine(DatabaseConfig.model_validate({"url": url}))
    )
    database = await with_purses(Database(engine), 3)
    await backup(engine, tmp_path / "copy.db")
    assert await totals(tmp_path / "copy.db", database) == (3, 300)
    async with UnitOfWork(database) as uow:  # its connection writes as before
        await uow.session.execute(update(Purse).values(money=0))
    await database.dispose()


async def test_a_file_that_is_there_stays(file: Database, tmp_path: Path) -> None:
    """Unless it may be overwritten; and the database itself never is."""
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    with pytest.raises(BackupError, match="is there already"):
        await backup(file.engine, copy)
    assert copy.read_text() == "mine"
    await backup(file.engine, copy, overwrite=True)
    assert await totals(copy, file) == (2, 200)
    with pytest.raises(BackupError, match="is the database itself"):
        await backup(file.engine, tmp_path / "bot.sqlite3", overwrite=True)
    with pytest.raises(BackupError, match="No such file"):
        await backup(file.engine, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(BackupError, match="is a folder"):
        await backup(file.engine, tmp_path)
    assert names(tmp_path) == {"copy.db"}


async def test_no_database_is_made_to_be_copied(tmp_path: Path) -> None:
    """A wrong path is an error, and not an empty copy."""
    config = DatabaseConfig.model_validate({"database": str(tmp_path / "bot.sqlite3")})
    engine = create_engine(config)
    with pytest.raises(BackupError, match="there is no database"):
        await backup(engine, tmp_path / "copy.db")
    assert names(tmp_path) == set()


async def test_a_cancelled_backup_leaves_nothing(
    sqlite_database: URL, open_database: Callable[..., Database], tmp_path: Path
) -> None:
    """Neither a part of the file nor a connection that is in use."""
    database = await with_purses(open_database(sqlite_database, pool_size=1), ROWS)
    for turns in (1, 5, 20, 80):
        task = asyncio.create_task(backup(database.engine, tmp_path / f"{turns}.db"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert names(tmp_path) == set()
    async with UnitOfWork(database) as uow:
        await uow.session.execute(update(Purse).values(money=0))


async def test_a_cancelled_pg_dump_is_ended(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program does not go on, and its file is removed."""
    record = program(tmp_path / "bin", HANGS, monkeypatch)
    os.mkfifo(record)
    engine = create_async_engine(postgres_database)
    (tmp_path / "copies").mkdir()
    task = asyncio.create_task(backup(engine, tmp_path / "copies" / "copy.dump"))
    assert await asyncio.to_thread(record.read_text) == "begun\n"
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert names(tmp_path / "copies") == set()
    await engine.dispose()


async def test_pg_dump_gets_no_secret_on_its_command_line(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where to connect, the password and TLS are in its environment: arguments are public."""
    record = program(tmp_path / "bin", RECORDS, monkeypatch)
    url = postgres_database.set(password=CANARY).render_as_string(hide_password=False)
    config = DatabaseConfig.model_validate({"url": url, "connect_timeout": 7.5})
    engine = create_engine(config)
    assert CANARY not in repr(engine.url)
    await backup(engine, tmp_path / "copy.sql")
    arguments = record.with_suffix(".arguments").read_text().split()
    assert arguments[:2] == ["--format=plain", "--no-password"]
    assert CANARY not in str(arguments)
    said = dict(
        line.split("=", 1) for line in record.with_suffix(".environment").read_text().splitlines()
    )
    expected = {
        "PGPASSWORD": CANARY,
        "PGHOST": postgres_database.host,
        "PGDATABASE": postgres_database.database,
        "PGUSER": postgres_database.username,
        "PGSSLMODE": "disable",
        "PGCONNECT_TIMEOUT": "8",
    }
    assert expected.items() <= said.items()
    await engine.dispose()


async def test_pg_dump_goes_where_the_engine_goes(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that would lead libpq elsewhere are not passed on; a replica is copied itself."""
    record = program(tmp_path / "bin", RECORDS, monkeypatch)
    url = postgres_database.render_as_string(hide_password=False)
    for name in ("PGHOSTADDR", "PGSERVICE"):
        monkeypatch.setenv(name, "elsewhere")
    section = {"url": url.replace(f"/{postgres_database.database}", "/main"), "replica": url}
    engine = create_engine(DatabaseConfig.model_validate(section), replica=True)
    await backup(engine, tmp_path / "copy.dump")
    said = record.with_suffix(".environment").read_text()
    assert "elsewhere" not in said
    assert f"PGDATABASE={postgres_database.database}\n" in said
    await engine.dispose()


async def test_what_pg_dump_lacks_is_said(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program, an old one, and a role without rights are errors with a fix."""
    engine = create_async_engine(postgres_database)
    copy = tmp_path / "copies" / "copy.dump"
    copy.parent.mkdir()
    program(tmp_path / "bin", OLD, monkeypatch)
    with pytest.raises(BackupError, match=r"is of PostgreSQL 9, .* install postgresql-client-"):
        await backup(engine, copy)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="pg_dump is not installed"):
        await backup(engine, copy)
    bouncer = {"url": postgres_database.render_as_string(hide_password=False), "pgbouncer": True}
    with pytest.raises(BackupError, match="DATABASE__PGBOUNCER=false"):
        await backup(create_engine(DatabaseConfig.model_validate(bouncer)), copy)
    assert names(copy.parent) == set()
    await engine.dispose()


async def test_what_pg_dump_says_is_told(
    postgres_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last lines are in the error, and no half of a file stays."""
    says = "#!/bin/sh\n[ $1 = --version ] && { echo 'pg_dump (PostgreSQL) 99'; exit; }\n"
    program(tmp_path / "bin", f"{says}echo 'no space left' >&2; exit 1\n", monkeypatch)
    engine = create_async_engine(postgres_database)
    (tmp_path / "copies").mkdir()
    with pytest.raises(BackupError, match="pg_dump ended with code 1: no space left"):
        await backup(engine, tmp_path / "copies" / "copy.dump")
    program(tmp_path / "bin", f"{says}kill -9 $$\n", monkeypatch)
    with pytest.raises(BackupError, match="pg_dump was ended by signal 9: it said nothing"):
        await backup(engine, tmp_path / "copies" / "copy.dump")
    assert names(tmp_path / "copies") == set()
    await engine.dispose()


async def test_mariadb_is_refused(tmp_path: Path) -> None:
    """Nothing connects, and the text says what to use."""
    config = DatabaseConfig.model_validate({"url": "mysql+asyncmy://nobody@127.0.0.1:1/none"})
    with pytest.raises(BackupError, match="mariadb-dump"):
        await backup(create_engine(config), tmp_path / "copy.sql")
    assert names(tmp_path) == set()


def test_a_series_removes_its_own_only(tmp_path: Path) -> None:
    """Files of other names stay, however much they look like its own."""
    own = [f"bot-2026010{day}T000000Z.db" for day in range(1, 6)]
    others = ["bot.db", "bot-old.db", "bot-20260101T000000Z.db.gz", "robot-20260101T000000Z.db"]
    others += ["bot-20261399T256199Z.db", "bot-00000000T000000Z.db"]
    for name in own + others:
        (tmp_path / name).touch()
    (tmp_path / "bot-20250101T000000Z.db").mkdir()
    (tmp_path / "bot-20250102T000000Z.db").symlink_to(tmp_path / "bot.db")
    others += ["bot-20250101T000000Z.db", "bot-20250102T000000Z.db"]
    removed = Series(tmp_path / "bot.db").remove_old(2)
    assert [each.name for each in removed] == own[:3]
    assert {each.name for each in tmp_path.iterdir()} == {*own[3:], *others}


def test_a_clock_that_was_ahead_costs_no_new_backup(tmp_path: Path) -> None:
    """What has a time that is yet to come is older than what was made since."""
    ahead = [f"bot-2999010{day}T000000Z.db" for day in range(1, 4)]
    for name in ahead:
        (tmp_path / name).touch()
    series = Series(tmp_path / "bot.db")
    series.next().touch()
    assert [each.name for each in series.remove_old(3)] == ahead[:1]


@pytest.mark.parametrize("name", ["bot[1].db", "b*t?.db", "[!a].db"])
async def test_nothing_stays_beside_a_name_with_wildcards(
    file: Database, tmp_path: Path, name: str
) -> None:
    """The part that was written is removed, and nothing else that its name could mean."""
    await backup(file.engine, tmp_path / name)
    assert names(tmp_path) == {name}


async def test_no_name_is_more_than_an_error(file: Database, tmp_path: Path) -> None:
    """What no file can be called, what is no file, and an engine that is closed."""
    for name in ("n" * 300, "nul\0", "half\ud800"):
        with pytest.raises(BackupError, match="was not made"):
            await backup(file.engine, tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupError, match="is a device or a pipe"):
        await backup(file.engine, tmp_path / "pipe", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BackupError, match="is there already"):
        await backup(file.engine, tmp_path / "link")
    await file.dispose()
    with pytest.raises(BackupError, match="db_manager is stopping or stopped"):
        await backup(file.engine, tmp_path / "copy.db")
    assert names(tmp_path) == {"pipe", "link"}


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
async def test_the_log_of_the_database_is_not_overwritten(
    file: Database, tmp_path: Path, ending: str
) -> None:
    """It is a part of the database, also by another name."""
    log = tmp_path / f"bot.sqlite3{ending}"
    log.touch()
    (tmp_path / "link").symlink_to(log)
    for name in (log, tmp_path / "link"):
        with pytest.raises(BackupError, match="is the database itself"):
            await backup(file.engine, name, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
async def test_no_old_log_becomes_part_of_a_copy(
    file: Database, tmp_path: Path, *, overwrite: bool
) -> None:
    """SQLite would take what a program that was killed left beside an older copy for this one's."""
    copy = tmp_path / "copy.db"
    await backup(file.engine, copy)
    subprocess.run([sys.executable, "-c", LEAVES_ITS_LOG, str(copy)], check=True)  # noqa: ASYNC221 -- it is waited for on purpose
    logs = [copy.with_name(f"copy.db{ending}") for ending in ("-wal", "-shm")]
    if not overwrite:
        copy.unlink()
    with pytest.raises(BackupError, match="would become part of the copy"):
        await backup(file.engine, copy, overwrite=overwrite)
    for left in logs:
        left.unlink()
    await backup(file.engine, copy, overwrite=overwrite)
    assert await totals(copy, file) == (2, 200)


def test_a_killed_backup_leaves_one_hidden_file(bot: Path) -> None:
    """Its name begins with a dot and ends in .part, and there is no copy."""
    program = forked("-c", KILLED, bot / "bot.sqlite3", bot / "copy.db")
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    left = names(bot) - {"config.toml"}
    assert len(left) == 1
    assert all(name.startswith(".copy.db.") and name.endswith(".part") for name in left)


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    """A folder with config.toml and a SQLite file of 8 MB."""
    (tmp_path / "config.toml").write_text('[database]\ndatabase = "bot.sqlite3"\n')
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as connection:
        connection.execute("CREATE TABLE t AS SELECT randomblob(8000000) AS x")
    return tmp_path


def command(folder: Path, *arguments: str | Path) -> tuple[str, ...]:
    """Return the command line of `db-manager backup`, in a process that is forked."""
    program = forked("-m", "observability.commands.cli", "backup")
    return (*program, "--config", str(folder / "config.toml"), *map(str, arguments))


def test_the_command_repeats_until_sigterm(bot: Path) -> None:
    """It keeps as many as it is told, and ends with 0 and without a half of a file."""
    arguments = ["--every", "1s", "--keep", "2", str(bot / "copy.db")]
    with subprocess.Popen(command(bot, *arguments), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(4)]
        running.send_signal(signal.SIGTERM)
        running.communicate()
    assert running.returncode == 0
    assert "removed" in lines[3]
    left = names(bot) - {"config.toml"}
    assert len(left) in {2, 3}
    assert all(name.startswith("copy-") and name.endswith("Z.db") for name in left)


def test_a_full_disk_is_an_error_and_leaves_nothing(bot: Path) -> None:
    """The exit code is 2, and the part that was written is gone."""
    limited = "import resource, runpy, sys\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
    limited += "sys.argv = sys.argv[1:]\n"
    limited += "runpy.run_module('observability.commands.cli', run_name='__main__')\n"
    arguments = ("backup", "--config", bot / "config.toml", bot / "copy.db")
    ended = subprocess.run(
        forked("-c", limited, "db-manager", *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "copy.db was not made" in ended.stderr
    assert names(bot) == {"config.toml"}


def test_the_command_says_what_is_wrong(bot: Path) -> None:
    """A file that is there, and a missing configuration, end with 2."""
    (bot / "copy.db").touch()
    for arguments in ([str(bot / "copy.db")], ["--config", str(bot / "none.toml"), "x"]):
        ended = subprocess.run(
            command(bot, *arguments), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        assert "there" in ended.stderr
