"""What observability knows of db_manager by name: topics, fields and levels.

The two packages do not import each other. A test compares every name here with the events of
db_manager, so that none can be renamed there alone.
"""

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from lifecycle.correlation import Correlation

UNIT_BEGIN: Final = "uow.begin"
UNIT_LEAVE: Final = "uow.leave"
UNIT_RETRY: Final = "uow.retry"
UNIT_SLOW: Final = "uow.slow"
UNIT_CLOSE: Final = "uow.close"
STATEMENT: Final = "database.statement"
POOL_EXHAUSTED: Final = "pool.exhausted"
REPLICA_LOST: Final = "replica.lost"
REPLICA_RECOVERED: Final = "replica.recovered"
DRIFTED: Final = "database.drifted"
MIGRATING: Final = "database.migrating"
MIGRATED: Final = "database.migrated"
MIGRATION_FAILED: Final = "database.migration_failed"
#: The begin of a migration, and its two ends.
MIGRATIONS: Final = (MIGRATING, MIGRATED, MIGRATION_FAILED)

#: Levels of the probe of a pool of connections.
POOL_IDLE: Final = "idle"
POOL_USED: Final = "used"
POOL_SIZE: Final = "size"
POOL_UNITS: Final = "units"

#: Field of an event of a database that names it.
DATABASE: Final = "database"
#: The plugin of a bot's first database, which events call by an empty name.
FIRST_DATABASE: Final = "db_manager"


class Happened(Protocol):
    """What every event has."""

    topic: str
    at: float
    correlation: Correlation


class UnitBegun(Happened, Protocol):
    """Fields of `UNIT_BEGIN`."""

    unit: int
    database: str
    attempt: int
    read_only: bool


class UnitLeft(Happened, Protocol):
    """Fields of `UNIT_LEAVE`."""

    unit: int
    inner: int
    mode: Literal["join", "savepoint"]
    outcome: Literal["joined", "rolled_back", "failed"]
    error: str
    duration: float


class UnitRetried(Happened, Protocol):
    """Fields of `UNIT_RETRY`."""

    unit: int
    database: str
    attempt: int
    error: str
    sqlstate: str
    wait: float


class UnitSlow(Happened, Protocol):
    """Fields of `UNIT_SLOW`."""

    unit: int
    database: str
    duration: float


class UnitClosed(Happened, Protocol):
    """Fields of `UNIT_CLOSE`."""

    unit: int
    database: str
    outcome: Literal["committed", "rolled_back", "outcome_unknown"]
    cause: Literal["", "error", "cancelled", "control_flow", "explicit"]
    error: str
    duration: float
    statements: int
    database_time: float
    waited: float
    attempt: int


class Statement(Happened, Protocol):
    """Fields of `STATEMENT`."""

    unit: int
    database: str
    operation: str
    statement: str
    system: str
    namespace: str
    server: str
    port: int | None
    duration: float
    error: str


class PoolExhausted(Happened, Protocol):
    """Fields of `POOL_EXHAUSTED`."""

    size: int
    holders: tuple[str, ...]
    database: str


class ReplicaLost(Happened, Protocol):
    """Fields of `REPLICA_LOST`."""

    reason: str
    database: str


class ReplicaRecovered(Happened, Protocol):
    """Fields of `REPLICA_RECOVERED`."""

    duration: float
    database: str


class Drifted(Happened, Protocol):
    """Fields of `DRIFTED`."""

    differences: tuple[str, ...]
    database: str


class Migrating(Happened, Protocol):
    """Fields of `MIGRATING`."""

    plugin: str
    revision: str
    database: str


class Migrated(Happened, Protocol):
    """Fields of `MIGRATED`."""

    plugin: str
    revision: str
    duration: float
    database: str


class MigrationFailed(Happened, Protocol):
    """Fields of `MIGRATION_FAILED`."""

    plugin: str
    revision: str
    error: str
    kept: int
    database: str


#: The fields that are known of each topic.
EVENTS: Final[Mapping[str, type]] = {
    UNIT_BEGIN: UnitBegun,
    UNIT_LEAVE: UnitLeft,
    UNIT_RETRY: UnitRetried,
    UNIT_SLOW: UnitSlow,
    UNIT_CLOSE: UnitClosed,
    STATEMENT: Statement,
    POOL_EXHAUSTED: PoolExhausted,
    REPLICA_LOST: ReplicaLost,
    REPLICA_RECOVERED: ReplicaRecovered,
    DRIFTED: Drifted,
    MIGRATING: Migrating,
    MIGRATED: Migrated,
    MIGRATION_FAILED: MigrationFailed,
}
