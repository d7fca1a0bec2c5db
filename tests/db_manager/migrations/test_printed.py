"""What `--sql` prints is run by the databases' own programs, and does what `upgrade` does."""

import asyncio
import shutil
from asyncio.subprocess import PIPE
from typing import Final, Literal

import pytest
from sqlalchemy import Connection, ExecutableDDLElement, MetaData
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.mock import MockConnection
from support.project import Project

from db_manager.dialects.known import dialect_of
from db_manager.migrations.printing import sql_of
from db_manager.migrations.versions import standings
from db_manager.schema import create_missing_tables, missing_tables, unmigrated

MODEL: Final = """
from sqlalchemy import Enum, Index, Uuid
from uuid import UUID

class Colour(enum.Enum):
    red = 1

class Owner(Base):
    __tablename__ = "people__owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    colour: Mapped[Colour] = mapped_column(Enum(Colour, name="colour"), index=True)

class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[UUID | None]
    title: Mapped[str] = mapped_column(String(50), server_default="50 % 'off' \\\\ :now")
    owner_id: Mapped[int | None] = mapped_column(
        ForeignKey("people__owner.id", deferrable=True, initially="DEFERRED")
    )
    __table_args__ = (CheckConstraint("owner_id > 0", name="positive"),)
"""
#: Rows with what a program or a driver might read otherwise.
ROWS: Final = r"""
def upgrade():
    op.execute("INSERT INTO people__owner (id, colour) VALUES (1, 'red')")
    item = sa.table(
        "shop__item",
        sa.column("id", sa.Integer),
        sa.column("title", sa.String),
        sa.column("owner_id", sa.Integer),
    )
    titles = ["50 % off", "it's", "back\\slash", ":now", "--", "%s", "ж\n;"]
    rows = [{"id": n, "title": t, "owner_id": 1} for n, t in enumerate(titles, 1)]
    op.bulk_insert(item, rows)
    op.execute(item.update().where(item.c.title.like("50 %")).values(title="a % b"))

def downgrade():
    op.execute("DELETE FROM shop__item")
    op.execute("DELETE FROM people__owner")
"""
#: A table whose rows wait for the end of their transaction cannot be altered.
CHANGES: Final = """
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer, server_default="8"))
    if op.get_context().dialect.name != "sqlite":
        op.drop_constraint("ck_shop__item_positive", "shop__item", type_="check")
    with op.get_context().autocommit_block():
        concurrently = op.get_context().dialect.name == "postgresql"
        op.create_index("ix_n", "shop__item", ["n"], postgresql_concurrently=concurrently)

def downgrade():
    op.drop_index("ix_n", "shop__item")
    op.drop_column("shop__item", "n")
    if op.get_context().dialect.name != "sqlite":
        op.create_check_constraint("ck_shop__item_positive", "shop__item", "owner_id > 0")
"""


@pytest.fixture
async def shop(project: Project) -> Project:
    """A project with revisions, on a plugin without any."""
    deferred = ', deferrable=True, initially="DEFERRED"'
    is_mariadb = make_url(project.url).get_backend_name() == "mysql"
    project.models(MODEL.replace(deferred, "") if is_mariadb else MODEL)
    await project.revision("shop")
    project.write("0002_rows", ROWS, after="0001_first")
    project.write("0003_changes", CHANGES, after="0002_rows")
    return project


def program(url: URL) -> list[str]:
    """Return the command line of the database's own program; it stops at an error."""
    database, host, port = str(url.database), str(url.host), str(url.port)
    user = str(url.username)
    commands = {
        "sqlite": ["sqlite3", "-bail", database],
        "mysql": ["mariadb", "-h", host, "-P", port, "-u", user, database],
        "postgresql": [
            *("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"),
            *("-h", host, "-p", port, "-U", user, database),
        ],
    }
    command = commands[url.get_backend_name()]
    if shutil.which(command[0]) is None:  # the SQL is for that program, and pip has none of them
        pytest.skip(f"not run: {command[0]} is not installed")
    return command


async def printed(project: Project, verb: Literal["upgrade", "downgrade"], target: str) -> str:
    """Return the SQL of a move from where the database is."""
    histories = project.histories
    ours = unmigrated(project.metadata, histories, alone=True)
    engine = project.engine()
    async with engine.connect() as connection:
        found = await connection.run_sync(standings, histories.values())
        missing = await connection.run_sync(missing_tables, project.metadata, among=ours)
    await engine.dispose()
    tables = [table for table in ours if table.name in missing]
    return await sql_of(project.config, verb, found, target, tables)


async def run(project: Project, sql: str) -> None:
    """Let the database's own program run *sql*."""
    command = program(make_url(project.url))
    ran = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    _, errors = await ran.communicate(sql.encode())
    assert ran.returncode == 0, sql + errors.decode()


def _content(connection: Connection) -> list[str]:
    there = MetaData()
    there.reflect(connection)
    found: list[str] = []

    def note(statement: ExecutableDDLElement, *_: object, **__: object) -> None:
        found.append(str(statement.compile(dialect=connection.dialect)))

    there.create_all(MockConnection(connection.dialect, note), checkfirst=False)
    found += [
        f"{table.name}: {connection.execute(table.select()).all()}" for table in there.sorted_tables
    ]
    return sorted(found)


async def content(project: Project) -> list[str]:
    """Return the tables of the database, as SQL, with their rows and versions."""
    engine = project.engine()
    async with engine.connect() as connection:
        found = await connection.run_sync(_content)
    await engine.dispose()
    return found


@pytest.mark.matrix(
    "M13",
    load="what --sql prints, run by the program of the database, up, down and up",
    result="as upgrade",
)
async def test_programs_lead_where_upgrade_leads(shop: Project) -> None:
    """From nothing to the last revision, back to before the first, and up again."""
    await run(shop, await printed(shop, "upgrade", "head"))
    by_program = await content(shop)
    await run(shop, await printed(shop, "downgrade", "base"))
    assert await shop.say("SELECT * FROM shop__alembic_version") == []
    await run(shop, await printed(shop, "upgrade", "head"))
    assert await content(shop) == by_program
    engine = shop.engine()
    async with engine.begin() as connection:
        await connection.run_sync(dialect_of(engine.dialect).empty)
    await create_missing_tables(engine, shop.metadata, shop.histories, alone=True)
    await engine.dispose()
    await shop.upgrade()
    assert await content(shop) == by_program
    assert "shop__alembic_version: [('0003_changes',)]" in by_program
    assert any("'a % b'" in line for line in by_program)
