"""Writes the next revision of a plugin: what its models have and its migrations have not."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import SAWarning

from db_manager.base import plugin_of
from db_manager.config import DatabaseConfig
from db_manager.dialects.known import is_made_on
from db_manager.migrations.alembic_context import UNREAD, alembic
from db_manager.migrations.history import History
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.move import upgrade
from db_manager.migrations.revision.scratch import scratch
from db_manager.schema import create_missing_tables, stands_on

if TYPE_CHECKING:
    from alembic.operations.ops import DowngradeOps, UpgradeOps
    from alembic.runtime.migration import MigrationContext

#: How the lines begin that Alembic writes around generated code.
_COMMENT: Final = "# ###"
_FILE: Final = '''"""{message}"""

import sqlalchemy as sa
from alembic import op
{imports}
revision = {id!r}
down_revision = {after!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    {up}


def downgrade() -> None:
    {down}
'''


@dataclass(frozen=True)
class Draft:
    """A revision that is not written yet.

    Args:
        file: Its file, named as its id.
        text: What stands in it.
        remarks: What to think of before it is applied.
    """

    file: Path
    text: str
    remarks: tuple[str, ...] = ()

    def write(self) -> None:
        """Write the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.text, encoding="utf-8")


async def generate(
    config: DatabaseConfig,
    metadata: MetaData,
    histories: Mapping[str, History],
    history: History,
    *,
    message: str = "",
    scratch_url: str = "",
) -> Draft | None:
    """Compare the models of a plugin with its migrations, and return what is missing.

    The migrations build a scratch database, with those of the other plugins: nobody's data is
    looked at, and what `create_tables` has made does not hide a change.

    Args:
        config: The section [database]; the scratch database is made beside it.
        metadata: The models of all plugins.
        histories: All migrations.
        history: Those of the plugin; empty before its first one.
        message: What the revision does, for its name; by default what changes.
        scratch_url: That of an empty database for it, by default one that is made.

    Returns:
        The revision; None when there is nothing to do.

    Raises:
        MigrationError: A migration that is there does not go through.
        MigrationsNotInstalledError: Alembic is not installed.
        ScratchError: There is no scratch database.
    """
    async with alembic():
        pass  # it is installed
    others = [each for each in histories.values() if not _waits(each, history, metadata)]
    async with scratch(config, scratch_url) as beside, migrating_engine(beside) as engine:
        await create_missing_tables(engine, metadata, {*histories, history.plugin}, alone=True)
        await upgrade(beside, others)
        async with engine.connect() as connection:
            return await connection.run_sync(_generated, history, metadata, message)


def _waits(other: History, history: History, metadata: MetaData) -> bool:
    """Return True if *other* stands on tables that *history* has not made yet."""
    return not history.revisions and history.plugin in stands_on(other.plugin, metadata)


def _generated(
    connection: Connection, history: History, metadata: MetaData, message: str
) -> Draft | None:
    from db_manager.migrations.revision.mend import mend, named, rendered  # noqa: PLC0415 -- Alembic is an extra

    context, up, down = compared(connection, history, metadata)
    if up.is_empty():
        return None
    first = not history.revisions
    message = message or ("first" if first else named(up))
    remarks = mend(up, down, metadata, connection.dialect, first=first)
    return replace(draft(history, message, **rendered(context, up, down)), remarks=tuple(remarks))


def draft(
    history: History, message: str, up: str = "pass", down: str = "pass", imports: str = ""
) -> Draft:
    """Return the revision that follows; without code, one for one's own: of rows, for example.

    Args:
        history: What it follows.
        message: What it does, for its name.
        up: The code of `upgrade`.
        down: That of `downgrade`.
        imports: What the code needs.
    """
    name = history.next_id(message)
    text = _FILE.format(
        message=message.replace("\\", "/").replace('"', "'"),
        imports=imports,
        id=name,
        after=history.head if history.revisions else None,
        up=up,
        down=down,
    )
    return Draft(history.folder / f"{name}.py", text)


def compared(
    connection: Connection, history: History, metadata: MetaData
) -> "tuple[MigrationContext, UpgradeOps, DowngradeOps]":
    """Return what would make the tables of a plugin what *metadata* says, and the way back.

    Args:
        connection: SQLAlchemy's synchronous connection.
        history: The migrations of the plugin.
        metadata: Its models, or its tables as they were.
    """
    from alembic.autogenerate import produce_migrations  # noqa: PLC0415 -- Alembic is an extra
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 -- the same

    #: Those that `ddl_if` makes elsewhere; an older revision may have made them here too.
    elsewhere = {
        index.name
        for table in metadata.tables.values()
        for index in table.indexes
        if not is_made_on(index, connection.dialect)
    }

    def is_compared(name: str | None, kind: str, _parents: object = None) -> bool:
        if kind == "table":
            return plugin_of(name or "") == history.plugin and name != history.version_table
        return kind != "index" or name not in elsewhere

    options: dict[str, Any] = {
        "include_name": is_compared,
        "include_object": lambda _, name, kind, *__: is_compared(name, kind),
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    }
    context = MigrationContext.configure(connection, opts=options)
    with unread():
        found = produce_migrations(context, metadata)
    return context, found.upgrade_ops_list[0], found.downgrade_ops_list[0]


def differences(connection: Connection, history: History, metadata: MetaData) -> str:
    """Return the operations that would make the tables of a plugin what *metadata* says.

    Args:
        connection: SQLAlchemy's synchronous connection.
        history: The migrations of the plugin.
        metadata: Its models, or its tables as they were.

    Returns:
        Python code, as in a revision, indented; empty when nothing differs.
    """
    from alembic.autogenerate import render_python_code  # noqa: PLC0415 -- Alembic is an extra

    context, needed, _ = compared(connection, history, metadata)
    if needed.is_empty():
        return ""
    code = render_python_code(needed, migration_context=context)
    lines = [line.strip() for line in code.splitlines()]
    return "\n".join(f"    {line}" for line in lines if line and not line.startswith(_COMMENT))


@contextmanager
def unread() -> Iterator[None]:
    """Do not warn of indexes on expressions, which cannot be read on every database."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNREAD, SAWarning)
        warnings.filterwarnings("ignore", "autogenerate skipping .* expression")
        yield


def reflected(connection: Connection, history: History) -> MetaData:
    """Return the tables of a plugin as they are.

    Args:
        connection: SQLAlchemy's synchronous connection.
        history: The migrations of the plugin.
    """
    tables = MetaData()
    with unread():
        tables.reflect(connection, only=lambda name, _: plugin_of(name) == history.plugin)
    return tables
