"""What the database is at: one query for the version tables of all plugins."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlalchemy import Connection, MetaData, Select, inspect, literal, select, union_all
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import ColumnClause, column, table

from db_manager.base import plugin_of
from db_manager.dialects.known import dialect_of
from db_manager.migrations.failure import HalfWayError, MigrationError
from db_manager.migrations.history import FOLDER, History, Step, folders, version_table

#: A direction.
Verb: TypeAlias = Literal["upgrade", "downgrade"]


@dataclass(frozen=True)
class Standing:
    """Where a database stands in a history.

    Args:
        history: The history.
        at: The revision that it is at; None when it has none.
    """

    history: History
    at: str | None

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions that it lacks."""
        return self.history.pending(self.at)

    @property
    def is_ahead(self) -> bool:
        """Whether it is at a revision that this code does not know."""
        return self.at is not None and self.at not in self.history.ids

    @property
    def said(self) -> str:
        """What it is at, and what that means."""
        at = self.at or "no revision"
        if self.is_ahead:
            return f"{at}, which this code does not know: is it older than the database?"
        return f"{at}, pending: {', '.join(self.pending)}" if self.pending else at

    @property
    def state(self) -> Literal["current", "pending", "ahead"]:
        """One word for it."""
        if self.is_ahead:
            return "ahead"
        return "pending" if self.pending else "current"

    def way(self, verb: Verb, target: str) -> list[Step]:
        """Return the steps to a revision; none from one that is unknown here up to any.

        Args:
            verb: The direction that was asked for.
            target: The revision, as `History.find` takes it.

        Raises:
            MigrationError: It is in the other direction, there is no such one, or the database is
                at a revision to take back that is in no file.
        """
        history, at = self.history, self.at or ""
        last = history.find(target)
        if self.is_ahead and verb == "upgrade":
            return []
        if self.is_ahead:
            raise MigrationError(
                history.plugin,
                at,
                "the database is at it, and no file has it; take it back with the code that has "
                "it, or say what the tables really are at: `db-manager migrate stamp "
                f"{history.plugin} …`",
            )
        steps = history.steps(at, last)
        if steps and steps[0].verb != verb:
            comes, back = "before", f"upgrade {history.plugin}` goes on"
            if verb == "upgrade":
                comes, back = "after", f"downgrade {history.plugin} {last or 'base'}` goes back"
            raise MigrationError(
                history.plugin,
                last,
                f"the database is at {at or 'no revision'}, which comes {comes} it; `db-manager "
                f"migrate {back}",
            )
        return steps


def standings(connection: Connection, histories: Iterable[History]) -> list[Standing]:
    """Return where the database stands in each of *histories*, by one query if all have a version.

    Args:
        connection: SQLAlchemy's synchronous connection; a transaction of it may be rolled back.
        histories: The migrations of its plugins.
    """
    by_plugin = {history.plugin: history for history in histories}
    try:
        at = _at(connection, by_plugin)
    except DBAPIError:  # a table is missing; what else it may be, the next query says as well
        connection.rollback()
        there = set(inspect(connection).get_table_names())
        at = _at(connection, [name for name in by_plugin if version_table(name) in there])
    return [Standing(history, at.get(plugin)) for plugin, history in by_plugin.items()]


def refuse_half_way(connection: Connection, found: Iterable[Standing]) -> None:
    """Refuse a database in which a migration began and did not end.

    Where a transaction takes back what a migration did, there is none.

    Args:
        connection: SQLAlchemy's synchronous connection.
        found: Where the database stands.

    Raises:
        HalfWayError: There is such a migration.
    """
    dialect = dialect_of(connection.dialect)
    for standing in found:
        history, at = standing.history, standing.at or ""
        mark = dialect.migration(history.version_table).half_way(connection)
        if mark is not None and mark.after != at:  # else it ended, and was killed before it said so
            revision = max((mark.before, mark.after), key=history.position)
            raise HalfWayError(history.plugin, revision, mark)


def refuse_unshipped(
    connection: Connection, there: Collection[str], metadata: MetaData, known: Collection[str]
) -> None:
    """Refuse a database with versions of a plugin whose migrations are not there.

    Its tables would be created when they are missing, and never altered again.

    Args:
        connection: SQLAlchemy's synchronous connection.
        there: Names of the tables of the database.
        metadata: The tables of its models.
        known: The plugins that have migrations.

    Raises:
        MigrationError: A plugin has none; the text says where they should be.
    """
    for plugin in dict.fromkeys(plugin_of(each.name) for each in metadata.tables.values()):
        if not plugin or plugin in known or version_table(plugin) not in there:
            continue
        if at := _at(connection, [plugin]).get(plugin):
            folder = folders(metadata).get(plugin, f"{FOLDER}/{plugin}")
            raise MigrationError(
                plugin,
                "",
                f"the database is at {at}, and {folder} has no revision. Was a wheel built without "
                f"that folder? It is package data. To go on without migrations: DROP TABLE "
                f"{version_table(plugin)}",
            )


def _at(connection: Connection, plugins: Collection[str]) -> dict[str, str]:
    at: dict[str, str] = {}
    if not plugins:
        return at
    for owner, revision in connection.execute(union_all(*map(_query, plugins))):
        # Several are no revision of ours: somebody else has written there.
        at[owner] = f"{at[owner]} and {revision}" if owner in at else str(revision)
    return at


def _query(plugin: str) -> Select[str, str]:
    version: ColumnClause[str] = column("version_num")  # a column belongs to one table
    return select(literal(plugin), version).select_from(table(version_table(plugin), version))
