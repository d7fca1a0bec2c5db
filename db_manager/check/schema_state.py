"""What `db-manager check` finds of tables: missing ones, migrations, differences, indexes."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.exc import SQLAlchemyError

from db_manager.base import plugin_of
from db_manager.check.finding import Finding
from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at, dialect_of
from db_manager.dialects.safe_text import connection_text
from db_manager.drift.look import differences
from db_manager.engine.url import database_url
from db_manager.errors import DbManagerError
from db_manager.migrations.alembic_context import alembic, run_files
from db_manager.migrations.failure import MigrationError, MigrationsNotInstalledError
from db_manager.migrations.history import History, find, wheels
from db_manager.migrations.revision.generate import generate
from db_manager.migrations.versions import (
    Standing,
    refuse_half_way,
    refuse_unshipped,
    standings,
)
from db_manager.schema import missing_tables

#: What to do about what is pending.
_UPGRADE: Final = "`db-manager migrate upgrade` applies it"
#: What to do about differences, of tables without migrations and of those with.
_UNMIGRATED: Final = "run your migrations, or these statements; a backup first: db-manager backup"
_MIGRATED: Final = (
    "all migrations of {plugin} were applied. Did its models change? `db-manager migrate revision "
    "{plugin}` writes the next one; if it finds nothing to do, run these statements"
)


class SchemaState:
    """The tables of a database and their migrations.

    Args:
        config: The section [database].
        metadata: The tables that should exist.
    """

    def __init__(self, config: DatabaseConfig, metadata: MetaData) -> None:
        self._config = config
        self._metadata = metadata
        self._histories: dict[str, History] = {}
        self._broken: dict[str, MigrationError] = {}
        try:
            self._histories = find(metadata, self._broken)
        except MigrationError as error:  # of a folder that may not be looked at
            self._broken[error.plugin] = error

    @property
    def broken(self) -> list[Finding]:
        """What is wrong with the files, whatever the database is at."""
        return [Finding("problem", "migrations", str(error)) for error in self._broken.values()]

    def look(self, connection: Connection) -> list[Finding]:
        """Return what is found in the database.

        Args:
            connection: SQLAlchemy's synchronous connection.
        """
        inspector = inspect(connection)
        missing = missing_tables(connection, self._metadata, inspector=inspector)
        found = standings(connection, self._histories.values())
        refused = [
            *self._refused(refuse_half_way, connection, [each for each in found if each.pending]),
            *self._refused(
                refuse_unshipped,
                connection,
                inspector.get_table_names(),
                self._metadata,
                {*self._histories, *self._broken},
            ),
        ]
        return [
            *self._tables(missing, found),
            *self._standing(found),
            *refused,
            *self._drift(connection, found),
            *self._invalid(connection),
        ]

    def _refused(self, refuse: Callable[..., None], *given: Any) -> list[Finding]:
        """Return what *refuse* says, and leave the tables of that plugin out of the rest."""
        try:
            refuse(*given)
        except MigrationError as error:
            self._broken[error.plugin] = error
            return [Finding("problem", "migrations", str(error))]
        return []

    def before_the_first_start(self) -> list[Finding]:
        """Return what is found of a database that is not there yet."""
        nothing = [Standing(history, None) for history in self._histories.values()]
        missing = [str(table.name) for table in self._metadata.sorted_tables]
        findings = list(self._tables(missing, nothing))
        if nothing and self._config.migrate == "apply":
            said = ", ".join(f"{each.history.plugin} to {each.history.head}" for each in nothing)
            return [*findings, Finding("ok", "migrations", f"the first start migrates {said}")]
        return [*findings, *self._standing(nothing)]

    async def due(self) -> list[Finding]:
        """Return what is found of the files with Alembic: whether they run, and say all.

        The migrations are compared with the models where a temporary file is enough for that:
        nothing is made on a server.
        """
        findings: list[Finding] = []
        for history in () if self._broken else self._histories.values():
            try:
                async with alembic():
                    run_files(history)
                findings += await self._compared(history)
            except MigrationsNotInstalledError as error:
                findings.append(Finding("warning", "migrations", f"{error}, before the next one"))
            except (DbManagerError, SQLAlchemyError, OSError) as error:
                ours = isinstance(error, DbManagerError)
                said = str(error) if ours else connection_text(error)
                findings.append(Finding("problem", "migrations", said))
        return list(dict.fromkeys(findings))

    async def _compared(self, history: History) -> list[Finding]:
        plugin = history.plugin
        if dialect_at(database_url(self._config)[0]).has_server or plugin in wheels(self._metadata):
            return []
        found = await generate(self._config, self._metadata, self._histories, history)
        if found is None:
            return []
        text = (
            f"the models of {plugin} have what its migrations have not: {found.file.stem} is due; "
            f"`db-manager migrate revision {plugin}` writes it"
        )
        return [Finding("warning", "migrations", text)]

    def _states(self, found: list[Standing]) -> dict[str, str]:
        """Return one word for the migrations of each plugin that has some."""
        return dict.fromkeys(self._broken, "broken") | {e.history.plugin: e.state for e in found}

    def _standing(self, found: list[Standing]) -> Iterator[Finding]:
        if current := [f"{e.history.plugin} {e.at}" for e in found if e.state == "current"]:
            yield Finding("ok", "migrations", ", ".join(current))
        for each in found:
            plugin = each.history.plugin
            if each.state == "pending":
                text = f"{plugin}: {', '.join(each.pending)} pending; {_UPGRADE}"
                if self._config.migrate == "apply":
                    text += ", and so does the next start"
                off = self._config.migrate == "off"
                yield Finding("warning" if off else "problem", "migrations", text)
            elif each.state == "ahead":
                yield Finding("warning", "migrations", f"{plugin} is at {each.said}")

    def _tables(self, missing: list[str], found: list[Standing]) -> Iterator[Finding]:
        """Yield which tables are missing, and who makes them."""
        number = len(self._metadata.tables)
        there = number - len(missing)
        exist = "exists" if there == 1 else "exist"
        if not missing:
            said = f"{there} of {there} {exist}" if there else "no plugin has any"
            yield Finding("ok", "tables", said)
            return
        said = f"{there} of {number} {exist}"
        states = self._states(found)
        created = [name for name in missing if plugin_of(name) not in states]
        migrated = [name for name in missing if states.get(plugin_of(name)) == "pending"]
        lost = [name for name in missing if states.get(plugin_of(name)) == "current"]
        if migrated:
            said += f"; migrations make: {', '.join(migrated)}"
        creates = created and self._config.create_tables
        if creates:
            said += f"; the next start creates: {', '.join(created)}"
        if migrated or creates:
            yield Finding("ok", "tables", said)
        if created and not creates:
            key = f"[{self._config.section}] create_tables = true"
            text = f"missing: {', '.join(created)}\nrun your migrations, or set {key}"
            yield Finding("problem", "tables", text)
        if lost:
            text = f"missing, although their migrations were applied: {', '.join(lost)}"
            yield Finding("problem", "tables", text)

    def _drift(self, connection: Connection, found: list[Standing]) -> Iterator[Finding]:
        """Yield what differs in the tables that exist, a line for each with its cure.

        What is pending would change that, so the tables of its plugin are left out.
        """
        states = self._states(found)
        ours: dict[str, list[Table]] = {}
        for table in self._metadata.sorted_tables:
            plugin = plugin_of(table.name)
            ours.setdefault(plugin if plugin in states else "", []).append(table)
        for plugin, tables in sorted(ours.items()):
            if states.get(plugin, "current") != "current":
                continue
            if differing := differences(connection, self._metadata, among=tables):
                lines = [f"{each.what}; {each.cure}" for each in differing]
                lines.append(_MIGRATED.format(plugin=plugin) if plugin else _UNMIGRATED)
                breaks = not plugin or any(each.breaks for each in differing)
                yield Finding("problem" if breaks else "warning", "drift", "\n".join(lines))

    def _invalid(self, connection: Connection) -> list[Finding]:
        names = {str(table.name) for table in self._metadata.tables.values()}
        lines = [
            f"{each.table} has the invalid index {each.name}: CONCURRENTLY did not end well, and "
            f"no query uses it; {each.cure}"
            for each in dialect_of(connection.dialect).invalid_indexes(connection)
            if each.table in names
        ]
        return [Finding("warning", "indexes", "\n".join(lines))] if lines else []
