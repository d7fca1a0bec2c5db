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
MESSAGE_SENT: Final = "message.sent"
MESSAGE_RETRIED: Final = "message.retried"
MESSAGE_DEAD: Final = "message.dead"
MESSAGE_UNKNOWN: Final = "message.unknown"
UPDATE_DONE: Final = "update.done"
UPDATE_RETRIED: Final = "update.retried"
UPDATE_TAKEN: Final = "update.taken"
UPDATE_PARKED: Final = "update.parked"
BEHIND: Final = "delivery.behind"
CAUGHT_UP: Final = "delivery.caught_up"
UNSAFE: Final = "delivery.unsafe"
#: Ends of messages and of updates for this process, the good one of each first.
MESSAGE_ENDS: Final = (MESSAGE_SENT, MESSAGE_DEAD, MESSAGE_UNKNOWN)
UPDATE_ENDS: Final = (UPDATE_DONE, UPDATE_TAKEN, UPDATE_PARKED)
#: The begin of a migration, and its two ends.
MIGRATIONS: Final = (MIGRATING, MIGRATED, MIGRATION_FAILED)

#: Levels of the probe of a pool of connections.
POOL_IDLE: Final = "idle"
POOL_USED: Final = "used"
POOL_SIZE: Final = "size"
POOL_UNITS: Final = "units"

#: Field of an event of a database that names it.
DATABASE: Final = "database"
#: The plugin of messages and updates.
DELIVERY: Final = "delivery"
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


class Message(Happened, Protocol):
    """Fields of all `message.*`."""

    message: int
    bot_id: int
    method: str


class MessageSent(Message, Protocol):
    """Fields of `MESSAGE_SENT`."""

    attempts: int
    wait: float


class MessageRetried(Message, Protocol):
    """Fields of `MESSAGE_RETRIED`."""

    attempts: int
    wait: float
    error: str


class MessageGivenUp(Message, Protocol):
    """Fields of `MESSAGE_DEAD` and `MESSAGE_UNKNOWN`."""

    error: str


class UpdateTaken(Happened, Protocol):
    """Fields of `UPDATE_TAKEN`, which the other ones about an update have too."""

    bot_id: int
    update_id: int
    attempts: int


class UpdateDone(UpdateTaken, Protocol):
    """Fields of `UPDATE_DONE`."""

    wait: float


class UpdateFailed(UpdateTaken, Protocol):
    """Fields of `UPDATE_RETRIED` and `UPDATE_PARKED`."""

    error: str


class Behind(Happened, Protocol):
    """Fields of `BEHIND`."""

    messages: int
    updates: int
    oldest: float


class CaughtUp(Happened, Protocol):
    """Fields of `CAUGHT_UP`."""

    duration: float


class Unsafe(Happened, Protocol):
    """Fields of `UNSAFE`."""

    settings: tuple[str, ...]


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
    MESSAGE_SENT: MessageSent,
    MESSAGE_RETRIED: MessageRetried,
    MESSAGE_DEAD: MessageGivenUp,
    MESSAGE_UNKNOWN: MessageGivenUp,
    UPDATE_DONE: UpdateDone,
    UPDATE_RETRIED: UpdateFailed,
    UPDATE_TAKEN: UpdateTaken,
    UPDATE_PARKED: UpdateFailed,
    BEHIND: Behind,
    CAUGHT_UP: CaughtUp,
    UNSAFE: Unsafe,
}
