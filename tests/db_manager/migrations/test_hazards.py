"""What surrounds a migration and is not its own: listeners, roles, old rows, a lost connection."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.accounting import connected
from support.pgbouncer import PgBouncer
from support.project import Project
from support.shop import application

from db_manager.dialects.known import dialect_at
from db_manager.dialects.migration import Migration
from db_manager.errors import DatabaseUnavailableError
from db_manager.migrations.failure import MigrationError

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)

class Part(Base):
    __tablename__ = "shop__part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("shop__item.id", ondelete="CASCADE"))
"""
TABLES = """
def upgrade():
    op.create_table(
        "shop__item", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
    )
    op.create_table(
        "shop__part",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("item", sa.Integer, sa.ForeignKey("shop__item.id", ondelete="CASCADE")),
    )
"""
ROWS = """
def upgrade():
    op.execute("INSERT INTO shop__item (id) VALUES (1)")
    op.execute("INSERT INTO shop__part (id, item) VALUES (1, 1)")

def downgrade():
    op.execute("DELETE FROM shop__part")
    op.execute("DELETE FROM shop__item")
"""
ANEW = """
def upgrade():
    with op.batch_alter_table("shop__item") as batch:
        batch.alter_column("n", type_=sa.String(10), existing_type=sa.Integer())
"""


def shop(folder: Path, url: URL, *revisions: str) -> Project:
    """Return a project with two tables and further revisions."""
    project = Project.at(folder / "project", url)
    project.models(MODEL)
    before = None
    for number, code in enumerate((TABLES, *revisions), 1):
        project.write(f"000{number}_step", code, after=before)
        before = f"000{number}_step"
    return project


def by_hand(url: URL, statement: str) -> None:
    """Run a statement on a SQLite file, as a program without foreign keys does."""
    with closing(sqlite3.connect(url.database or "")) as plain, plain:
        plain.execute(statement)


@pytest.fixture
def shop_on(tmp_path: Path, server_url: URL) -> Project:
    """A project with two tables and rows, on each database."""
    return shop(tmp_path, server_url, ROWS)


@contextmanager
def speaking_first() -> Iterator[None]:
    """Let a listener say something on each connection of SQLAlchemy's, as recipes of pings do."""

    def say(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1")

    event.listen(Engine, "engine_connect", say)
    try:
        yield
    finally:
        event.remove(Engine, "engine_connect", say)


async def test_a_listener_that_speaks_first_loses_no_migration(shop_on: Project) -> None:
    """Alembic commits nothing in a transaction that somebody else began."""
    with speaking_first():
        await shop_on.upgrade()
    assert await shop_on.say("SELECT id FROM shop__item") == [(1,)]
    with speaking_first():
        await shop_on.move("downgrade", "0001")
    assert await shop_on.say("SELECT id FROM shop__item") == []
    with speaking_first():
        await shop_on.move("stamp", "0002")
    assert await shop_on.upgrade() == []


async def test_a_commit_that_is_refused_keeps_nothing(
    tmp_path: Path, postgres_database: URL
) -> None:
    """A constraint that is checked at COMMIT takes the migration back as a whole."""
    deferred = """
def upgrade():
    op.execute(
        "ALTER TABLE shop__part ADD CONSTRAINT late FOREIGN KEY (id) REFERENCES shop__item"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    op.execute("INSERT INTO shop__part (id) VALUES (7)")
"""
    project = shop(tmp_path, postgres_database, deferred)
    with pytest.raises(MigrationError, match="nothing of it is kept") as caught:
        await project.upgrade()
    assert caught.value.kept == 0
    assert await project.say("SELECT count(*) FROM shop__part") == [(0,)]


async def test_a_role_with_a_timeout_migrates_through_pgbouncer(
    tmp_path: Path, postgres_database: URL, pgbouncer: PgBouncer
) -> None:
    """There the timeouts of statements are the role's; they are none for a migration."""
    slow = "def upgrade():\n    op.execute('SELECT pg_sleep(0.3)')"
    project = shop(tmp_path, pgbouncer.url(postgres_database), slow)
    project.config = project.config.model_copy(update={"pgbouncer": True})
    database = postgres_database.database
    await project.say(f"ALTER DATABASE \"{database}\" SET statement_timeout = '100ms'")
    await project.say(f'ALTER DATABASE "{database}" SET idle_in_transaction_session_timeout = 50')
    await _reconnect(postgres_database)
    assert await project.upgrade() == ["0001_step", "0002_step"]


async def _reconnect(url: URL) -> None:
    """Let PgBouncer make its connections anew, so that they have the role's settings."""
    async with connected(url) as admin:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_rows_that_were_broken_before_are_no_fault_of_a_migration(
    tmp_path: Path, sqlite_database: URL
) -> None:
    """A file from a bot without foreign keys migrates; what a migration breaks is refused."""
    project = shop(tmp_path, sqlite_database, ANEW)
    await project.upgrade("0001")
    await project.say(
        "INSERT INTO shop__item (id) VALUES (1)",
        "INSERT INTO shop__part (id, item) VALUES (1, 1)",
    )
    by_hand(sqlite_database, "INSERT INTO shop__part (id, item) VALUES (2, 99)")
    assert await project.upgrade() == ["0002_step"]
    project.write(
        "0003_step", "def upgrade():\n    op.execute('DELETE FROM shop__item')", after="0002_step"
    )
    with pytest.raises(MigrationError, match="shop__part refers to rows of shop__item"):
        await project.upgrade()


async def test_in_memory_children_are_kept_too(tmp_path: Path) -> None:
    """There the connection is the bot's own: its foreign keys are off meanwhile, and on after."""
    memory = URL.create("sqlite+aiosqlite", database=":memory:")
    project = shop(tmp_path, memory, ROWS, ANEW)
    app = application(project, drift="ignore")
    async with app, app.services["db_manager:uow_factory"]() as uow:
        assert await uow.session.scalar(text("SELECT count(*) FROM shop__part")) == 1
        assert await uow.session.scalar(text("PRAGMA foreign_keys")) == 1


async def test_a_lost_connection_is_no_failed_migration(
    tmp_path: Path, postgres_database: URL
) -> None:
    """Nothing is kept, and the error is the one by which a bot waits for its database."""
    slow = "def upgrade():\n    op.execute('SELECT pg_sleep(60)')"
    project = shop(tmp_path, postgres_database, slow)
    engine = project.engine()
    ending = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with engine.connect() as other:
        migrating = asyncio.create_task(project.upgrade())
        while not (await other.execute(ending)).all():
            await other.rollback()
        with pytest.raises(DBAPIError):
            await migrating
    await engine.dispose()
    project.write("0002_step", ROWS, after="0001_step")
    assert await project.upgrade() == ["0002_step"]


async def test_a_version_table_that_somebody_wrote_into_is_not_moved(shop_on: Project) -> None:
    """Two revisions are none of ours; nothing is applied over them, and a stamp mends it."""
    await shop_on.upgrade("0001")
    await shop_on.say("INSERT INTO shop__alembic_version VALUES ('0007_strange')")
    assert await shop_on.upgrade() == []
    await shop_on.move("stamp", "0001")
    assert await shop_on.upgrade() == ["0002_step"]
    await shop_on.say("UPDATE shop__alembic_version SET version_num = '0009_rewritten'")
    await shop_on.move("stamp", "0002")
    assert await shop_on.upgrade() == []


async def test_who_moves_the_database_meanwhile_is_noticed(
    tmp_path: Path, sqlite_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is not where it was, and not beyond, is refused instead of left as it is."""
    project = shop(tmp_path, sqlite_database, ROWS)
    await project.upgrade("0001")
    begin = Migration.__init__
    moved = False

    def move_away(self: Migration, *args: object, **kwargs: object) -> None:
        nonlocal moved
        begin(self, *args, **kwargs)  # type: ignore[arg-type]  # whatever it is given
        if not moved:
            moved = True
            by_hand(sqlite_database, "DELETE FROM shop__alembic_version")

    monkeypatch.setattr(Migration, "__init__", move_away)
    with pytest.raises(MigrationError, match="says no revision, and said 0001_step before"):
        await project.upgrade()


async def test_a_downgrade_waits_for_locks_too(
    tmp_path: Path, postgres_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking back asks briefly and again, as applying does."""
    monkeypatch.setattr(Migration, "lock_wait", 0.1)
    project = shop(tmp_path, postgres_database, ROWS)
    await project.upgrade()
    engine = project.engine()
    waits = text(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE NOT granted AND datname = current_database()"
    )
    async with engine.connect() as holder, engine.connect() as other:
        await holder.execute(text("LOCK TABLE shop__part"))
        moving = asyncio.create_task(project.move("downgrade", "0001"))
        for turn in (1, 0, 1):
            while await other.scalar(waits) != turn:
                await other.rollback()
        await holder.rollback()
        await moving
    await engine.dispose()
    assert await project.say("SELECT count(*) FROM shop__part") == [(0,)]


async def test_an_idle_lock_is_kept(tmp_path: Path, mariadb_database: URL) -> None:
    """Its connection says nothing while a migration runs, and the server does not end it."""
    slow = "def upgrade():\n    op.execute('DO SLEEP(2.5)')"
    project = shop(tmp_path, mariadb_database, slow)
    impatient = {"init_command": "SET SESSION wait_timeout = 1"}
    project.config = project.config.model_copy(update={"connect_args": impatient})
    assert await project.upgrade() == ["0001_step", "0002_step"]


async def test_without_the_lock_no_further_migration_begins(
    tmp_path: Path, postgres_database: URL
) -> None:
    """When its connection is lost, the migration that runs ends, and the next is not begun."""
    slow = "def upgrade():\n    op.execute('SELECT pg_sleep(1)')"
    project = shop(tmp_path, postgres_database, slow, ROWS)
    await project.upgrade("0001")
    engine = project.engine()
    ending = text(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l"
        " JOIN pg_database d ON d.oid = l.database AND d.datname = current_database(),"
        " pg_stat_activity a WHERE l.locktype = 'advisory' AND a.query LIKE 'SELECT pg_sleep%'"
    )
    async with engine.connect() as other:
        migrating = asyncio.create_task(project.upgrade())
        while not (await other.execute(ending)).all():
            await other.rollback()
        with pytest.raises(DatabaseUnavailableError, match="lock"):
            await migrating
    await engine.dispose()
    assert await project.upgrade() == ["0003_step"]


#: A statement of half a second, on each database.
SLOW = {
    "postgresql": "SELECT pg_sleep(0.5)",
    "mysql": "DO SLEEP(0.5)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000)"
    " SELECT count(*) FROM n",
}


async def test_timeouts_of_units_are_none_of_migrations(tmp_path: Path, server_url: URL) -> None:
    """A migration may take as long as it takes, and think between two statements."""
    code = (
        "def upgrade():\n"
        f"    op.execute('{SLOW[server_url.get_backend_name()]}')\n"
        "    __import__('sqlalchemy').util.await_only(__import__('asyncio').sleep(0.5))\n"
        "    op.execute('INSERT INTO shop__item (id) VALUES (1)')"
    )
    project = shop(tmp_path, server_url, code)
    short = dict.fromkeys(("statement_timeout", "idle_in_transaction_timeout"), 0.1)
    project.config = project.config.model_copy(update=short)
    assert await project.upgrade() == ["0001_step", "0002_step"]


@pytest.mark.parametrize("options", [{"isolation_level": "SERIALIZABLE"}, {"pool_size": 1}])
async def test_options_of_the_engine_are_no_obstacle(
    tmp_path: Path, server_url: URL, options: dict[str, object]
) -> None:
    """The lock has its own connection, and each transaction sees what those before it did."""
    project = shop(tmp_path, server_url, ROWS)
    project.config = project.config.model_copy(update={"engine_options": options})
    done = await asyncio.gather(*(project.upgrade() for _ in range(3)))
    assert len(done) == 3
    applied = [e.as_dict()["revision"] for e in project.events if e.topic == "database.migrated"]
    assert sorted(applied) == ["0001_step", "0002_step"]


async def test_a_start_with_nothing_to_do_needs_no_writer(
    tmp_path: Path, sqlite_database: URL
) -> None:
    """What the database is at is read while another process writes."""
    project = shop(tmp_path, sqlite_database)
    await project.upgrade()
    app = application(project, lock_timeout=0.1, drift="ignore")
    with closing(sqlite3.connect(sqlite_database.database or "")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        async with app:
            pass


async def test_a_foreign_key_without_its_key_can_be_mended(
    tmp_path: Path, sqlite_database: URL
) -> None:
    """SQLite cannot check one that refers to what is not unique; a migration may make it so."""
    project = shop(tmp_path, sqlite_database)
    await project.upgrade()
    by_hand(sqlite_database, "CREATE TABLE shop__x (n INTEGER REFERENCES shop__item (n))")
    unique = "def upgrade():\n    op.create_index('n', 'shop__item', ['n'], unique=True)"
    project.write("0002_step", unique, after="0001_step")
    assert await project.upgrade() == ["0002_step"]
    broken = "def upgrade():\n    op.drop_index('n')"
    project.write("0003_step", broken, after="0002_step")
    with pytest.raises(MigrationError, match="refers to columns that are not unique"):
        await project.upgrade()


async def test_what_is_committed_is_told_as_done(
    tmp_path: Path, server_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation after the COMMIT makes no failed migration of it."""
    project = shop(tmp_path, server_url, ROWS)
    await project.upgrade("0001")

    def cancel(_self: Migration, _connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    monkeypatch.setattr(dialect_at(server_url).migration, "settle", cancel)
    with pytest.raises(asyncio.CancelledError):
        await project.upgrade()
    assert project.events[-1].topic == "database.migrated"
    assert await project.upgrade() == []
