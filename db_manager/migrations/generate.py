"""Writes the next revision of a plugin: what its models have and its migrations have not."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, MetaData

from db_manager.base import plugin_of
from db_manager.config import DatabaseConfig
from db_manager.migrations.alembic_command import alembic, configured, unread
from db_manager.migrations.history import History
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.scratch import scratch
from db_manager.migrations.upgrade import upgrade
from db_manager.schema import stands_on, unmigrated

if TYPE_CHECKING:
    from db_manager.migrations.mend import Generated, Mending


#: How the lines begin that Alembic writes around generated code.
_COMMENT: Final = "# ###"


async def generate(
    config: DatabaseConfig,
    metadata: MetaData,
    histories: Mapping[str, History],
    history: History,
    *,
    message: str = "",
    write: bool = True,
    scratch_url: str = "",
) -> "Generated | None":
    """Compare the models of a plugin with its migrations, and write what is missing.

    The migrations build a scratch database, with those of the other plugins: nobody's data is
    looked at, and what `create_tables` has made does not hide a change.

    Args:
        config: The section [database]; the scratch database is made beside it.
        metadata: The models of all plugins.
        histories: All migrations.
        history: Those of the plugin; empty before its first one.
        message: What the revision does, for its name; by default what changes.
        write: Write the file.
        scratch_url: That of an empty database for it, by default one that is made.

    Returns:
        The revision; None when there is nothing to do.

    Raises:
        MigrationError: A migration that is there does not go through.
        ScratchError: There is no scratch database.
    """
    async with alembic():
        from db_manager.migrations.mend import Mending  # noqa: PLC0415 -- Alembic is an extra
    mending = Mending(history, metadata, message, write=write)
    done = [each for each in histories.values() if not _waits(each, history, metadata)]
    first = unmigrated(metadata, {*histories, history.plugin}, alone=True)
    async with scratch(config, scratch_url) as beside:
        if first:  # else it would make types: those of all models
            async with migrating_engine(beside) as engine, engine.begin() as connection:
                await connection.run_sync(lambda sync: metadata.create_all(sync, tables=first))
        await upgrade(beside, done)
        async with (
            migrating_engine(beside) as engine,
            alembic() as command,
            engine.connect() as connection,
        ):
            await connection.run_sync(_compare, command, history, metadata, mending)
    return mending.generated


def _waits(other: History, history: History, metadata: MetaData) -> bool:
    """Return True if *other* stands on tables that *history* has not made yet."""
    return not history.revisions and history.plugin in stands_on(other.plugin, metadata)


async def write_empty(history: History, message: str) -> Path:
    """Write a revision without changes, for one's own: of rows, for example.

    Args:
        history: What it follows.
        message: What it does, for its name.

    Returns:
        The file.
    """
    history.folder.mkdir(parents=True, exist_ok=True)
    name = history.next_id(message)
    async with alembic() as command:
        offline = configured(history)
        offline.set_main_option("file_template", "%%(rev)s")
        command.revision(offline, message, rev_id=name, version_path=str(history.folder))
    return history.folder / f"{name}.py"


def _compare(
    connection: Connection,
    command: Any,
    history: History,
    metadata: MetaData,
    mending: "Mending",
) -> None:
    config = configured(
        history,
        connection,
        target_metadata=metadata,
        render_as_batch=True,
        render_item=mending.render,
        **compared(history),
    )
    config.set_main_option("file_template", "%%(rev)s")
    with unread():
        command.revision(
            config,
            autogenerate=True,
            version_path=str(history.folder),
            process_revision_directives=mending,
        )


def compared(history: History) -> dict[str, Any]:
    """Return options of Alembic's comparison: the tables of one plugin, and checks by their names.

    Args:
        history: The migrations of the plugin.
    """

    def is_mine(name: str | None, kind: str, _parents: object = None) -> bool:
        table = name or ""
        mine = plugin_of(table) == history.plugin and table != history.version_table
        return kind != "table" or mine

    return {
        "include_name": is_mine,
        "include_object": lambda _, name, kind, *__: is_mine(name, kind),
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    }


def differences(connection: Connection, history: History, metadata: MetaData) -> str:
    """Return the operations that would make the tables of a plugin what *metadata* says.

    Args:
        connection: SQLAlchemy's synchronous connection.
        history: The migrations of the plugin.
        metadata: Its models, or its tables as they were.

    Returns:
        Python code, as in a revision, indented; empty when nothing differs.
    """
    from alembic.autogenerate import (  # noqa: PLC0415 -- Alembic is an extra
        produce_migrations,
        render_python_code,
    )
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 -- the same

    context = MigrationContext.configure(connection, opts=compared(history))
    with unread():
        needed = produce_migrations(context, metadata).upgrade_ops
    if needed is None or needed.is_empty():
        return ""
    code = render_python_code(needed, migration_context=context)
    lines = [line.strip() for line in code.splitlines()]
    return "\n".join(f"    {line}" for line in lines if line and not line.startswith(_COMMENT))


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
