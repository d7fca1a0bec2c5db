"""What the database is at: one query for the version tables of all plugins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, inspect, literal, select, union_all
from sqlalchemy.sql.expression import ColumnClause, column, table

from db_manager.dialects.known import dialect_of
from db_manager.migrations.failure import HalfWayError
from db_manager.migrations.history import History


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
    def state(self) -> Literal["current", "pending", "ahead"]:
        """One word for it."""
        if self.is_ahead:
            return "ahead"
        return "pending" if self.pending else "current"


def standings(connection: Connection, histories: Iterable[History]) -> list[Standing]:
    """Return where the database stands in each of *histories*.

    Args:
        connection: SQLAlchemy's synchronous connection.
        histories: The migrations of its plugins.
    """
    wanted = list(histories)
    if not wanted:
        return []
    there = set(inspect(connection).get_table_names())
    at = _at(connection, {h.plugin: h.version_table for h in wanted if h.version_table in there})
    return [Standing(history, at.get(history.plugin)) for history in wanted]


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
        mark = dialect.half_way(connection, history.version_table)
        if mark is not None and mark.after != at:  # else it ended, and was killed before it said so
            revision = max((mark.before, mark.after), key=history.position)
            raise HalfWayError(history.plugin, revision, mark)


def _at(connection: Connection, tables: Mapping[str, str]) -> dict[str, str]:
    if not tables:
        return {}
    queries = []
    for plugin, name in tables.items():
        version: ColumnClause[str] = column("version_num")  # a column belongs to one table
        found = select(literal(plugin).label("plugin"), version)
        queries.append(found.select_from(table(name, version)))
    at: dict[str, str] = {}
    for owner, revision in connection.execute(union_all(*queries)):
        # Several are no revision of ours: somebody else has written there.
        at[owner] = f"{at[owner]} and {revision}" if owner in at else str(revision)
    return at
