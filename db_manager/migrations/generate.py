"""Writes the next revision of a plugin: what its models have and its migrations have not."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData

from db_manager.config import DatabaseConfig
from db_manager.migrations.alembic_command import alembic, configured
from db_manager.migrations.compare import compared
from db_manager.migrations.history import History
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.scratch import scratch
from db_manager.migrations.upgrade import upgrade
from db_manager.schema import stands_on, unmigrated

if TYPE_CHECKING:
    from db_manager.migrations.mend import Generated, Mending


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
    mending = Mending(history, message, write=write)
    done = [each for each in histories.values() if not _waits(each, history, metadata)]
    first = unmigrated(metadata, {*histories, history.plugin}, alone=True)
    async with scratch(config, scratch_url) as beside:
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
    command.revision(
        config,
        autogenerate=True,
        version_path=str(history.folder),
        process_revision_directives=mending,
    )
