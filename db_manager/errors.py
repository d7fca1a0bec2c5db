"""Every error of db_manager: objects first, text second."""

from collections.abc import Iterable
from typing import Final

from lifecycle.errors import ConfigError as ConfigError  # noqa: PLC0414 -- the same error, public here too


class DbManagerError(Exception):
    """Base of the errors that db_manager raises itself.

    Errors of the driver pass through a unit as they are: `IntegrityError` stays `IntegrityError`.
    """


class UnitOfWorkStateError(DbManagerError, RuntimeError):
    """A unit was used in a way that its state does not allow.

    Args:
        state: State of the unit.
        what: What was tried.
        fix: What to do instead.
    """

    def __init__(self, state: str, what: str, fix: str) -> None:
        self.state = state
        self.what = what
        self.fix = fix
        super().__init__(state, what, fix)

    def __str__(self) -> str:
        return f"{self.what}: the unit of work is {self.state}; {self.fix}"


class UnitOfWorkTaskError(DbManagerError, RuntimeError):
    """A unit was used by a task that does not own it.

    Args:
        owner: Name of the task that entered the unit.
        user: Name of the task that used it.
    """

    #: Of names of tasks events say nothing: they may be made of what a user typed.
    told: Final = "the unit of work belongs to another task than the one that used it"

    def __init__(self, owner: str, user: str) -> None:
        self.owner = owner
        self.user = user
        super().__init__(owner, user)

    def __str__(self) -> str:
        return (
            f"the unit of work belongs to task {self.owner!r} and was used by task {self.user!r}; "
            f"open a unit of its own in each task, and await child tasks before the block ends "
            f"(asyncio.wait_for makes a task on Python 3.11; asyncio.timeout makes none)"
        )


class WrongEventLoopError(DbManagerError, RuntimeError):
    """An engine was used from a second event loop."""

    def __str__(self) -> str:
        return (
            "this engine belongs to another event loop: its connections cannot be used here; "
            "make one engine for each loop, or `await engine.dispose()` in the old one first"
        )


class TransactionAbortedError(DbManagerError):
    """A statement failed, the block went on as if nothing had happened, nothing was written.

    The failed statement's error is `__cause__`.
    """

    def __str__(self) -> str:
        return (
            "a statement of this unit failed and its error was swallowed, so everything was "
            "rolled back; let the error out of the block, or put the statement in "
            "`async with uow.savepoint():`"
        )


class TransactionEndedError(DbManagerError):
    """The transaction of a unit was ended in the middle of its block, behind the unit's back.

    By a COMMIT or ROLLBACK of the bare driver, for example. What went through SQLAlchemy is
    refused at once instead, as `UnitOfWorkStateError`.

    Args:
        what: What is known of it.
        undone: True when nothing of the unit is written; False when nobody here can know.
    """

    def __init__(self, what: str, *, undone: bool) -> None:
        self.what = what
        self.undone = undone
        super().__init__(what, undone)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _ended, self.args

    def __str__(self) -> str:
        written = "nothing of it is written" if self.undone else "what it wrote may be there or not"
        return (
            f"{self.what} before the block was over: {written}; leave COMMIT and ROLLBACK to the "
            f"unit, and do in a block of its own what shall be committed by itself"
        )


def _ended(what: str, undone: bool) -> TransactionEndedError:  # noqa: FBT001 -- called by pickle
    return TransactionEndedError(what, undone=undone)


class EndTimeoutError(DbManagerError, TimeoutError):
    """The end of a unit took longer than `exit_timeout`, and COMMIT had not been sent.

    Args:
        seconds: The `exit_timeout`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(seconds)

    def __str__(self) -> str:
        return (
            f"the last flush of the unit and what listens to it took longer than exit_timeout, "
            f"{self.seconds:g} s: COMMIT was not sent, everything was rolled back"
        )


class CommitOutcomeUnknownError(DbManagerError):
    """COMMIT was sent and no answer came: the rows may be there or not.

    Never retry blindly: find out first, with `await resolve(engine, error)` or by looking for the
    unit's rows.

    Args:
        unit: Number of the unit.
        reason: What happened to the answer, in one line, without the text of an error.
        xid: PostgreSQL's transaction id, when the unit was asked to keep it (`resolvable`); 0
            when it had written nothing.
    """

    def __init__(self, unit: int, reason: str, xid: int | None = None) -> None:
        self.unit = unit
        self.reason = reason
        self.xid = xid
        super().__init__(unit, reason, xid)

    def __str__(self) -> str:
        how = (
            "look for its rows, or open such units with resolvable=True"
            if self.xid is None
            else f"ask `await resolve(engine, error)` (transaction {self.xid})"
            if self.xid
            else "it had written nothing"
        )
        return f"unit {self.unit}: COMMIT was sent, its outcome is unknown ({self.reason}); {how}"


class PoolExhaustedError(DbManagerError, TimeoutError):
    """No connection came free in time.

    Args:
        size: Connections the pool may hold, or has while the server refuses more.
        waited: Seconds the unit waited.
        holders: Who holds them, a line each, the longest first.
        what: What there is too little of: `connections`, or `SQLite's one writer`.
        refusal: What the server said when the pool wanted more connections, if it refused.
    """

    def __init__(
        self,
        size: int,
        waited: float,
        holders: Iterable[str],
        what: str = "connections",
        refusal: str = "",
    ) -> None:
        self.size = size
        self.waited = waited
        self.holders = tuple(holders)
        self.what = what
        self.refusal = refusal
        super().__init__(size, waited, self.holders, what, refusal)

    def __str__(self) -> str:
        busy = f"all {self.size} connections were"
        fix = "Make units shorter (no Telegram call inside), or raise [database] pool_size"
        if self.refusal:
            fix = f"The server refuses more: {self.refusal}"
        if self.what != "connections":
            busy = f"{self.what} was"
            fix = "Make units shorter, or open those that only read with read_only=True"
        held = "; ".join(self.holders) or "somebody outside of units of work"
        return f"{busy} busy for {self.waited:.1f} s; held by: {held}. {fix}"


class DatabaseUnavailableError(DbManagerError, ConnectionError):
    """The database cannot be reached now: nothing was begun, trying later is safe.

    Args:
        reason: What the connection attempt said, in one line, without secrets.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"the database is unavailable: {self.reason}"


class RetriesExhaustedError(DbManagerError):
    """Every attempt of `run` failed with an error that is worth a retry.

    The last error is `__cause__`.

    Args:
        attempts: Attempts that were made.
        seconds: Seconds from the first to the end of the last.
    """

    def __init__(self, attempts: int, seconds: float) -> None:
        self.attempts = attempts
        self.seconds = seconds
        super().__init__(attempts, seconds)

    def __str__(self) -> str:
        return f"gave up after {self.attempts} attempts in {self.seconds:.2f} s"


class ManagerClosedError(DbManagerError, RuntimeError):
    """The plugin is stopping or stopped: no unit can be opened."""

    def __str__(self) -> str:
        return (
            "db_manager is stopping or stopped: no unit of work can be opened; "
            "do the work before the stop, in a plugin that requires db_manager"
        )


class ReadOnlyUnsupportedError(DbManagerError):
    """This engine cannot refuse writes, so it cannot have read-only units.

    Args:
        database: Name of the engine's database.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        super().__init__(database)

    def __str__(self) -> str:
        return (
            f"an engine of one's own for {self.database} cannot refuse writes; build it with "
            f"`create_engine(DatabaseConfig(...))`, or open the unit without read_only"
        )


class TableNameError(DbManagerError, ValueError):
    """A model's table breaks the convention `plugin_name__table_name`, or is claimed twice."""
