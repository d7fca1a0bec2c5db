"""Every event of a unit of work."""

from typing import ClassVar, Literal

from lifecycle.event import Event, Level

Cause = Literal["", "error", "cancelled", "control_flow", "explicit"]
Outcome = Literal["committed", "rolled_back", "outcome_unknown"]
JoinMode = Literal["join", "savepoint"]
JoinOutcome = Literal["joined", "rolled_back", "failed"]


class UnitEvent(Event, kw_only=True):
    """Base of the events about one unit of work.

    Args:
        unit: Number of the unit, counted from 1 in this process.
        database: Name of the plugin of its database; empty for the first one, `db_manager`.
    """

    level: ClassVar[Level] = "debug"

    unit: int
    database: str = ""


class UnitBegun(UnitEvent, kw_only=True):
    """A unit of work was entered; nothing has been sent to the database yet.

    Args:
        attempt: Number of the attempt under `uow_factory.run`; otherwise 1.
        read_only: True for a read-only unit.
    """

    topic: ClassVar[str] = "uow.begin"

    attempt: int = 1
    read_only: bool = False


class UnitJoined(UnitEvent, kw_only=True):
    """A unit was entered inside of an open one of its task, and is a part of that one.

    Its statements and callbacks are those of the open unit, and so is `unit`.

    Args:
        inner: Number of the unit that joined.
        mode: `join`, or `savepoint`.
    """

    topic: ClassVar[str] = "uow.join"

    inner: int
    mode: JoinMode


class UnitLeft(UnitEvent, kw_only=True):
    """The block of a unit that had joined another one is over.

    Args:
        inner: Number of the unit that had joined.
        mode: `join`, or `savepoint`.
        outcome: `joined`: the unit around it decides; `rolled_back`: to its savepoint; `failed`:
            the unit around it will be rolled back.
        error: The error that left the block, in one line, without its text.
        duration: Seconds from its begin.
    """

    topic: ClassVar[str] = "uow.leave"
    labels: ClassVar[tuple[str, ...]] = ("mode", "outcome")

    inner: int
    mode: JoinMode
    outcome: JoinOutcome
    error: str = ""
    duration: float

    @property
    def log_level(self) -> Level:
        """`warning` when the unit around it fails, `info` after a savepoint, else `debug`."""
        levels: dict[JoinOutcome, Level] = {"failed": "warning", "rolled_back": "info"}
        return levels.get(self.outcome, "debug")


class UnitStatement(UnitEvent, kw_only=True):
    """A statement of a unit was answered; published only while it has subscribers.

    It has no measures, so that observers of `uow.close` do not pay for every statement.

    Args:
        operation: First word of the statement, such as `SELECT`.
        statement: The statement, without parameters and literals.
        system: The database, as OpenTelemetry names it: `postgresql`, `sqlite`, `mysql`.
        namespace: Name of the database, or the path of its file.
        server: Host of the server; empty for a file.
        port: Port of the server, when it is configured.
        duration: Seconds from sending the statement to its answer.
        error: Its error in one line, without the error's text; empty when it succeeded.
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
    """The server confirmed the commit, or there was nothing to commit."""

    topic: ClassVar[str] = "uow.commit"


class UnitRolledBack(UnitEvent, kw_only=True):
    """The unit was rolled back: it wrote nothing.

    Args:
        cause: `error`, `cancelled`, `control_flow` (SkipHandler, CancelHandler) or `explicit`.
        error: The error that ended the block, in one line, without its text.
        rollback_error: The error of the rollback itself, in one line, without its text.
    """

    topic: ClassVar[str] = "uow.rollback"
    labels: ClassVar[tuple[str, ...]] = ("cause", "database")

    cause: Cause
    error: str = ""
    rollback_error: str = ""


class UnitOutcomeUnknown(UnitEvent, kw_only=True):
    """COMMIT was sent and no answer came, or the transaction ended before the unit ended it.

    Args:
        reason: What happened to the answer, or to the transaction.
        xid: PostgreSQL's transaction id, when the unit kept it.
    """

    topic: ClassVar[str] = "uow.unknown"
    level: ClassVar[Level] = "error"
    labels: ClassVar[tuple[str, ...]] = ("database",)

    reason: str
    xid: int | None = None


class UnitClosed(UnitEvent, kw_only=True):
    """The unit has ended and its connection is back in the pool: the summary of a unit.

    Args:
        outcome: `committed`, `rolled_back` or `outcome_unknown`.
        cause: Why it was rolled back; empty otherwise.
        error: The error that ended the block, in one line, without its text.
        duration: Seconds from begin to close.
        statements: Number of statements that went through SQLAlchemy.
        database_time: Seconds spent waiting for those statements.
        waited: Seconds spent waiting for a connection from the pool.
        attempt: Number of the attempt under `uow_factory.run`; otherwise 1.
    """

    topic: ClassVar[str] = "uow.close"
    level: ClassVar[Level] = "info"
    labels: ClassVar[tuple[str, ...]] = ("outcome", "database")
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
        """`error` for an unknown outcome, `warning` for an error or a cancellation, else `info`."""
        if self.outcome == "outcome_unknown":
            return "error"
        return "warning" if self.cause in {"error", "cancelled"} else "info"


class UnitRetried(UnitEvent, kw_only=True):
    """An attempt under `uow_factory.run` failed, and the whole unit will be retried.

    Args:
        attempt: Number of the attempt that failed.
        error: Its error in one line, without the error's text.
        sqlstate: The server's SQLSTATE code, if any.
        wait: Seconds until the next attempt.
    """

    topic: ClassVar[str] = "uow.retry"
    level: ClassVar[Level] = "info"
    labels: ClassVar[tuple[str, ...]] = ("sqlstate", "database")
    measures: ClassVar[tuple[str, ...]] = ("wait",)

    attempt: int
    error: str
    sqlstate: str = ""
    wait: float


class UnitSlow(UnitEvent, kw_only=True):
    """A unit has been open for longer than `slow_unit`, and is still open.

    Args:
        duration: Seconds it has been open.
        holds_connection: True when it holds a connection.
        statement: Its last statement, without parameters and literals.
    """

    topic: ClassVar[str] = "uow.slow"
    level: ClassVar[Level] = "warning"
    labels: ClassVar[tuple[str, ...]] = ("database",)
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float
    holds_connection: bool
    statement: str = ""


class UnitCallbackFailed(UnitEvent, kw_only=True):
    """A callback of `after_commit` or `after_rollback` raised or took too long.

    Args:
        callback: Qualified name of the callback.
        error: The error it raised, in one line, without its text.
    """

    topic: ClassVar[str] = "uow.callback_failed"
    level: ClassVar[Level] = "error"
    labels: ClassVar[tuple[str, ...]] = ("database",)

    callback: str
    error: str
