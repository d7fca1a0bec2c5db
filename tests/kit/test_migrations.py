"""Migrations in tests: verified from nothing to the models and back, or stopped for rows."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.project import PREFIX, Project

from db_manager import ConfigError, DatabasePlugin, MigrationError
from db_manager.testing import Databases, Migrations, Sandbox
from db_manager.testing.environment import config_at
from examples.notes_bot.notes import Note
from observability.testing import EventRecorder

MODELS = """
from sqlalchemy import Index, func

class Brand(Base):
    __tablename__ = "brands__brand"
    id: Mapped[int] = mapped_column(primary_key=True)

class Buyer(Base):
    __tablename__ = "buyers__buyer"
    id: Mapped[int] = mapped_column(primary_key=True)
    brand: Mapped[int] = mapped_column(ForeignKey("brands__brand.id"))

class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column(ForeignKey("buyers__buyer.id"))
"""
#: A change of the table `shop__item`.
MORE = MODELS + "    code: Mapped[str | None] = mapped_column(String(8), index=True)\n"
ADD = "def upgrade():\n    op.add_column('shop__item', sa.Column('code', sa.String(8)))\n"
INDEX = "    op.create_index('ix_shop__item_code', 'shop__item', ['code'])\n"
DROP = "def downgrade():\n    op.drop_index('ix_shop__item_code', 'shop__item')\n"


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def sandbox_url(request: pytest.FixtureRequest) -> str | URL:
    """Sandboxes on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return ""
    url: URL = request.getfixturevalue("postgres_admin")
    return url


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Forget the modules that a test has imported."""
    yield
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


@pytest.fixture
async def shop(tmp_path: Path) -> Project:
    """Three plugins, each on the one before; the last two have a revision each."""
    (folder := tmp_path / "shop").mkdir()
    written = URL.create("sqlite+aiosqlite", database=str(folder / "shop.sqlite3"))
    project = Project(folder, config_at(written))  # and not where the sandbox leads
    project.models(MODELS)
    for plugin in ("buyers", "shop"):
        await project.revision(plugin)
    return project


def stores(project: Project) -> type[DatabasePlugin]:
    """Return a plugin whose database has the tables of *project*."""
    return type("Stores", (DatabasePlugin,), {"name": "stores", "metadata": project.metadata})


async def refused(migrations: Migrations, project: Project, plugin: str = "shop") -> str:
    """Return what `verify` says against the migrations of *plugin*."""
    database = stores(project)  # it is found as long as there is somebody who holds it
    with pytest.raises(MigrationError) as caught:
        await migrations.verify(plugin)
    assert caught.value.plugin == plugin
    del database
    return str(caught.value)


async def test_what_leads_to_the_models_and_back_is_right(
    migrations: Migrations, shop: Project
) -> None:
    """So do generated revisions, also those of plugins that stand on others."""
    shop.models(MORE)
    await shop.revision()
    database = stores(shop)
    for plugin in ("buyers", "shop"):
        await migrations.verify(plugin)
    await migrations.verify("notes")
    del database


async def test_an_index_on_an_expression_is_no_difference(
    migrations: Migrations, shop: Project
) -> None:
    """Nor is it a warning, where SQLAlchemy cannot read it."""
    column = "    code: Mapped[str | None] = mapped_column(String(8))\n"
    shop.models(f"{MODELS}{column}\nIndex('ix_shop__item_lower', func.lower(Item.code))\n")
    create = "    op.create_index('ix_shop__item_lower', 'shop__item', [sa.text('lower(code)')])\n"
    drop = "    op.drop_index('ix_shop__item_lower', 'shop__item')\n"
    back = f"def downgrade():\n{drop}    op.drop_column('shop__item', 'code')"
    shop.write("0002_code", ADD + create + back, after="0001_first")
    database = stores(shop)
    await migrations.verify("shop")
    del database


async def test_models_that_say_more_are_named(migrations: Migrations, shop: Project) -> None:
    """With the operations that are missing, and the command that writes them."""
    shop.models(MORE)
    said = await refused(migrations, shop)
    assert said.startswith("migration 0001_first of 'shop': it is the last one, and the models")
    command, added, index = said.splitlines()
    assert command.endswith("something else; `db-manager migrate revision shop` writes:")
    assert added.startswith("    op.add_column('shop__item', sa.Column('code', sa.String(length=8)")
    assert index.startswith("    op.create_index(")


@pytest.mark.parametrize(
    ("way_back", "lacks"),
    [
        ("def downgrade():\n    pass", ["op.drop_index(", "op.drop_column('shop__item', 'code')"]),
        (DROP, ["op.drop_column('shop__item', 'code')"]),
    ],
)
async def test_a_downgrade_that_leaves_something_is_named(
    migrations: Migrations, shop: Project, way_back: str, lacks: list[str]
) -> None:
    """With the operations that it lacks."""
    shop.models(MORE)
    shop.write("0002_code", ADD + INDEX + way_back, after="0001_first")
    said = await refused(migrations, shop)
    first, *missing = said.splitlines()
    assert first == (
        "migration 0002_code of 'shop': its downgrade does not lead back to 0001_first; it lacks:"
    )
    assert len(missing) == len(lacks)
    assert all(line.startswith(f"    {each}") for line, each in zip(missing, lacks, strict=True))


async def test_a_downgrade_that_fails_is_named(migrations: Migrations, shop: Project) -> None:
    """With what the server said."""
    shop.models(MORE)
    code = ADD + INDEX + DROP + "    op.drop_column('shop__item', 'colour')"
    shop.write("0002_code", code, after="0001_first")
    said = await refused(migrations, shop)
    assert said.startswith("migration 0002_code of 'shop': ")
    assert "colour" in said


async def test_a_revision_that_fails_is_named(migrations: Migrations, shop: Project) -> None:
    """With the error and its line."""
    shop.write("0002_code", "def upgrade():\n    op.drop_table('no')", after="0001_first")
    said = await refused(migrations, shop)
    assert said.startswith("migration 0002_code of 'shop': ")
    assert "raised in" in said


async def test_two_heads_are_named(migrations: Migrations, shop: Project) -> None:
    """Before anything is run."""
    shop.write("0002_a", ADD, after="0001_first")
    shop.write("0002_b", ADD, after="0001_first")
    assert "0002_a.py and 0002_b.py both follow 0001_first" in await refused(migrations, shop)


async def test_what_has_no_way_back_says_so(migrations: Migrations, shop: Project) -> None:
    """A downgrade that raises NotImplementedError is let be; what comes after it is verified."""
    shop.models(MORE)
    shop.write(
        "0002_code", ADD + "def downgrade():\n    raise NotImplementedError", after="0001_first"
    )
    code = f"def upgrade():\n{INDEX}def downgrade():\n    pass"
    shop.write("0003_index", code, after="0002_code")
    assert "migration 0003_index of 'shop': its downgrade" in await refused(migrations, shop)


async def test_rows_are_put_between_revisions(migrations: Migrations, sandbox: Sandbox) -> None:
    """The sandbox is where the migrations are, and the models fit when all are applied."""
    await migrations.upgrade("notes", "0001")
    async with sandbox.engine.begin() as connection:
        insert = "INSERT INTO notes__note (id, chat_id, text) VALUES (1, 7, 'milk')"
        await connection.execute(text(insert))
    await migrations.upgrade("notes")
    await migrations.upgrade("notes")
    for _ in range(2):
        async with sandbox.uow_factory() as uow:
            note = await uow.session.get_one(Note, 1)
            assert (note.text, note.done) == ("milk", False)
            note.done = True
        await migrations.downgrade("notes", "0001")
        await migrations.upgrade("notes")


async def test_what_cannot_be_done_is_named(migrations: Migrations) -> None:
    """No such revision, no such plugin, no way up to an earlier one."""
    await migrations.upgrade("notes")
    with pytest.raises(MigrationError, match="the database is at 0002_add_done; `downgrade` leads"):
        await migrations.upgrade("notes", "0001")
    with pytest.raises(MigrationError, match="no revision begins so; there are 0001_first"):
        await migrations.downgrade("notes", "0007")
    with pytest.raises(
        ConfigError, match=r"no tables \(did you mean 'notes'\?\): the test must im"
    ):
        await migrations.verify("nots")


async def test_a_plugin_without_migrations_is_told_how_to_begin(
    migrations: Migrations, shop: Project
) -> None:
    """The error names the command."""
    database = stores(shop)
    with pytest.raises(ConfigError, match=r"no migrations: `db-manager migrate revision brands`"):
        await migrations.verify("brands")
    del database


async def test_another_database_is_migrated_too(
    migrations: Migrations, sandbox: Sandbox, shop: Project
) -> None:
    """The revisions are applied where the plugin's database is, after those it stands on."""
    database = stores(shop)
    await migrations.upgrade("shop")
    app = await sandbox.start(database)
    async with app.services["stores:engine"].connect() as connection:
        versions = "SELECT version_num FROM buyers__alembic_version"
        assert await connection.scalar(text(versions)) == "0001_first"
        assert await connection.scalar(text("SELECT count(*) FROM shop__item")) == 0


async def test_a_start_applies_what_is_left(
    migrations: Migrations, sandbox: Sandbox, events: EventRecorder
) -> None:
    """A bot that is started half-way does what it does in production."""
    await migrations.upgrade("notes", "0001")
    await sandbox.start()
    events.assert_event("database.migrated", plugin="notes", revision="0002_add_done")


async def test_without_migrations_in_a_test_there_is_nothing_to_do(
    sandbox: Sandbox, events: EventRecorder
) -> None:
    """The tables of a sandbox are those of the models, and count as migrated."""
    await sandbox.start()
    events.assert_none("database.migrating")
    async with sandbox.uow_factory() as uow:
        uow.session.add(Note(chat_id=7, text="milk"))


async def test_nothing_is_left_of_what_was_verified(
    sandbox_databases: Databases, sandbox: Sandbox
) -> None:
    """The database of `verify` is dropped, also after an error."""
    before = dict(sandbox_databases._made)
    migrations = Migrations(sandbox, sandbox_databases)
    await migrations.verify("notes")
    with pytest.raises(ConfigError):
        await migrations.verify("nots")
    assert sandbox_databases._made == before
