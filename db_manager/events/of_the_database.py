"""Every event of a database, its pool and its replica."""

from typing import ClassVar

from lifecycle.event import Event, Level


class DatabaseEvent(Event, kw_only=True):
    """Base of the events about one database.

    Args:
        database: Name of its plugin; empty for the first one, `db_manager`.
    """

    labels: ClassVar[tuple[str, ...]] = ("database",)

    database: str = ""


class PoolExhausted(DatabaseEvent, kw_only=True):
    """A unit waited for a connection and got none in time.

    Args:
        size: Most connections that the pool may hold; while the server refuses more, the number
            that it has.
        holders: The units that hold them, one line each, longest first.
    """

    topic: ClassVar[str] = "pool.exhausted"
    level: ClassVar[Level] = "error"

    size: int
    holders: tuple[str, ...]


class DatabaseDrained(DatabaseEvent, kw_only=True):
    """The stop has finished waiting for open units.

    Args:
        waited: Number of units that were open when the stop began.
        cancelled: Units that did not end before the deadline and were cancelled, one line each.
        duration: Seconds it took.
    """

    topic: ClassVar[str] = "database.drained"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    waited: int
    cancelled: tuple[str, ...] = ()
    duration: float


class TablesCreated(DatabaseEvent, kw_only=True):
    """Missing tables were created at start.

    Args:
        tables: Their names.
    """

    topic: ClassVar[str] = "database.tables_created"

    tables: tuple[str, ...]


class DatabaseDrifted(DatabaseEvent, kw_only=True):
    """The tables differ from the models, as the start found.

    Args:
        differences: What differs, one line each; `db-manager check` has the statements, and sees
            indexes and constraints as well.
    """

    topic: ClassVar[str] = "database.drifted"
    level: ClassVar[Level] = "warning"

    differences: tuple[str, ...]


class ReplicaLost(DatabaseEvent, kw_only=True):
    """The read replica is refused, silent or exhausted: the database itself answers instead.

    Args:
        reason: Why it is not used, in one line.
    """

    topic: ClassVar[str] = "replica.lost"
    level: ClassVar[Level] = "warning"

    reason: str


class ReplicaRecovered(DatabaseEvent, kw_only=True):
    """The read replica answers again, and is used.

    Args:
        duration: Seconds for which it was not.
    """

    topic: ClassVar[str] = "replica.recovered"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float
