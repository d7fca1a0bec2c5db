"""Writes the next revision of a plugin: what its models have and its migrations have not."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.engine import URL

from db_manager.base import plugin_of
from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at
from db_manager.engine.create import create_engine
from db_manager.engine.url import database_url
from db_manager.migrations.alembic_command import alembic, configured
from db_manager.migrations.history import History
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.upgrade import upgrade

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

    Returns:
        The revision; None when there is nothing to do.

    Raises:
        MigrationError: A migration that is there does not go through.
    """
    from db_manager.migrations.mend import Mending  # noqa: PLC0415 -- Alembic is an extra

    mending = Mending(history, message, write=write)
    done = [each for each in histories.values() if each.revisions]
    made = {each.plugin for each in done} | {history.plugin}
    others = [t for t in metadata.sorted_tables if plugin_of(t.name) not in made]
    async with scratch(config) as beside:
        await upgrade(beside, done)
        async with migrating_engine(beside) as engine, alembic() as command:
            async with engine.begin() as connection:
                await connection.run_sync(lambda sync: metadata.create_all(sync, tables=others))
            async with engine.connect() as connection:
                await connection.run_sync(_compare, command, history, metadata, mending)
    return mending.generated


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
    def is_mine(name: str | None, kind: str, _parents: object = None) -> bool:
        table = name or ""
        mine = plugin_of(table) == history.plugin and table != history.version_table
        return kind != "table" or mine

    history.folder.mkdir(parents=True, exist_ok=True)
    config = configured(
        history,
        connection,
        target_metadata=metadata,
        include_name=is_mine,
        include_object=lambda _, name, kind, *__: is_mine(name, kind),
        render_as_batch=True,
        render_item=mending.render,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    )
    config.set_main_option("file_template", "%%(rev)s")
    command.revision(
        config,
        autogenerate=True,
        version_path=str(history.folder),
        process_revision_directives=mending,
    )


@asynccontextmanager
async def scratch(config: DatabaseConfig) -> AsyncIterator[DatabaseConfig]:
    """Yield the section of an empty database beside the configured one, which is removed after it.

    Args:
        config: The section [database].

    Raises:
        DBAPIError: The role may not create a database.
    """
    url = database_url(config)[0]
    name = f"scratch_{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="db_manager.") as folder:
        if not dialect_at(url).has_server:
            yield _at(config, url.set(database=f"{folder}/{name}.sqlite3"))
            return
        await _say(config, f"CREATE DATABASE {name}")
        try:
            yield _at(config, url.set(database=name, password=database_url(config)[1]))
        finally:
            await _say(config, f"DROP DATABASE {name}")


def _at(config: DatabaseConfig, url: URL) -> DatabaseConfig:
    where = url.render_as_string(hide_password=False)
    return config.model_copy(update={"url": SecretStr(where), "database": None})


async def _say(config: DatabaseConfig, statement: str) -> None:
    engine = create_engine(config)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(statement))
    finally:
        await engine.dispose()
