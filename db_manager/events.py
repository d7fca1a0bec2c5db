"""Every event of a unit of work and of the database behind it."""

from typing import ClassVar, Literal

from lifecycle.event import Event, Level

Cause = Literal["", "error", "cancelled", "control_flow", "explicit"]
Outcome = Literal["committed", "rolled_back", "outcome_unknown"]


class UnitEvent(Event, kw_only=True):
    """Base of the events about one unit of work.

    Args:
        unit: Number of the unit, counted from 1 in this process.
    """

    level: ClassVar[Level] = "debug"

    unit: int


class UnitBegun(UnitEvent, kw_only=True):
    """A unit of work was entered; the database knows nothing of it yet.

    Args:
        attempt: 1, or the number of the attempt under `uow_factory.run`.
        read_only: True for a read-only unit.
    """

    topic: ClassVar[str] = "uow.begin"

    attempt: int = 1
    read_only: bool = False


class UnitStatement(UnitEvent, kw_only=True):
    """A statement of a unit was answered; made only while somebody listens to it.

    It has no measures: nobody who reads the end of units shall pay for each of their statements.

    Args:
        operation: First word of the statement, as `SELECT`.
        statement: The statement, without parameters and literals.
        system: The database, as OpenTelemetry names it: `postgresql`, `sqlite`, `mysql`.
        namespace: Its name, or the path of its file.
        server: Host of its server; empty for a file.
        port: Port of its server, when the configuration says one.
        duration: Seconds from sending it to its answer.
        error: What it failed with, in one line, without its text; empty otherwise.
    """

    topic: ClassVar[str] = "database.statement"

    operation: str
    statement: str
    system: str
    namespace: str = ""
    server: str = ""
    port: int | None = None
    duration: float
    error: str = ""


class UnitCommitted(UnitEvent, kw_only=True):
    """The server said that the unit is committed (or there was nothing to commit)."""

    topic: ClassVar[str] = "uow.commit"


class UnitRolledBack(UnitEvent, kw_only=True):
    """Nothing of the unit was written.

    Args:
        cause: `error`, `cancelled`, `control_flow` (SkipHandler, CancelHandler) or `explicit`.
        error: What ended the block, in one line, without its text.
        rollback_error: What went wrong in the rollback itself, without its text.
    """

    topic: ClassVar[str] = "uow.rollback"
    labels: ClassVar[tuple[str, ...]] = ("cause",)

    cause: Cause
    error: str = ""
    rollback_error: str = ""


class UnitOutcomeUnknown(UnitEvent, kw_only=True):
    """COMMIT was sent and no answer came, or somebody ended the transaction before the unit did.

    Args:
        reason: What happened to the answer, or to the transaction.
        xid: PostgreSQL's transaction id, when the unit kept it.
    """

    topic: ClassVar[str] = "uow.unknown"
    level: ClassVar[Level] = "error"

    reason: str
    xid: int | None = None


class UnitClosed(UnitEvent, kw_only=True):
    """The unit is over and its connection is back: the one line to read about a unit.

    Args:
        outcome: `committed`, `rolled_back` or `outcome_unknown`.
        cause: Why it was rolled back; empty otherwise.
        error: What ended the block, in one line, without its text.
        duration: Seconds from begin to close.
        statements: Statements that went through SQLAlchemy.
        database_time: Seconds spent waiting for those statements.
        waited: Seconds spent in getting a connection from the pool.
        attempt: 1, or the number of the attempt under `uow_factory.run`.
    """

    topic: ClassVar[str] = "uow.close"
    level: ClassVar[Level] = "info"
    labels: ClassVar[tuple[str, ...]] = ("outcome",)
    measures: ClassVar[tuple[str, ...]] = ("duration", "statements", "database_time", "waited")

    outcome: Outcome
    cause: Cause = ""
    error: str = ""
    duration: float
    statements: int
    database_time: float
    waited: float = 0.0
    attempt: int = 1

    @property
    def log_level(self) -> Level:
        """`error` when the outcome is unknown, `warning` when an error rolled it back."""
        if self.outcome == "outcome_unknown":
            return "error"
        return "warning" if self.cause in {"error", "cancelled"} else "info"


class UnitRetried(UnitEvent, kw_only=True):
    """An attempt under `uow_factory.run` failed and the whole unit is tried again.

    Args:
        attempt: Number of the attempt that failed.
        error: What it failed with, in one line, without its text.
        sqlstate: The server's code, when it said one.
        wait: Seconds until the next attempt.
    """

    topic: ClassVar[str] = "uow.retry"
    level: ClassVar[Level] = "info"
    labels: ClassVar[tuple[str, ...]] = ("sqlstate",)
    measures: ClassVar[tuple[str, ...]] = ("wait",)

    attempt: int
    error: str
    sqlstate: str = ""
    wait: float


class UnitSlow(UnitEvent, kw_only=True):
    """A unit has been open for longer than `slow_unit` and still is.

    Args:
        duration: Seconds it has been open.
        holds_connection: True when it keeps a connection from others.
        statement: Its last statement, without parameters and literals.
    """

    topic: ClassVar[str] = "uow.slow"
    level: ClassVar[Level] = "warning"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float
    holds_connection: bool
    statement: str = ""


class UnitCallbackFailed(UnitEvent, kw_only=True):
    """A callback of `after_commit` or `after_rollback` raised or took too long.

    Args:
        callback: Qualified name of the callback.
        error: What it raised, in one line, without its text.
    """

    topic: ClassVar[str] = "uow.callback_failed"
    level: ClassVar[Level] = "error"

    callback: str
    error: str


class PoolExhausted(Event, kw_only=True):
    """A unit waited for a connection in vain.

    Args:
        size: Connections the pool may hold, or has while the server refuses more.
        holders: Who holds them, a line each, the longest first.
    """

    topic: ClassVar[str] = "pool.exhausted"
    level: ClassVar[Level] = "error"

    size: int
    holders: tuple[str, ...]


class DatabaseDrained(Event, kw_only=True):
    """The stop has waited for the open units.

    Args:
        waited: Units that were open.
        cancelled: Units that did not end before the deadline and were rolled back, a line each.
        duration: Seconds it took.
    """

    topic: ClassVar[str] = "database.drained"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    waited: int
    cancelled: tuple[str, ...] = ()
    duration: float


class TablesCreated(Event, kw_only=True):
    """Missing tables were created at start.

    Args:
        tables: Their names.
    """

    topic: ClassVar[str] = "database.tables_created"

    tables: tuple[str, ...]
