"""Every error of db_manager: objects first, text second."""

from collections.abc import Iterable
from typing import Final

from lifecycle.errors import ConfigError as ConfigError  # noqa: PLC0414 -- the same error, public here too
from lifecycle.errors import counted


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

    #: The text that events carry: a task's name may contain what a user typed.
    told: Final = "the unit of work was used by a task that does not own it"

    def __init__(self, owner: str, user: str) -> None:
        self.owner = owner
        self.user = user
        super().__init__(owner, user)

    def __str__(self) -> str:
        return (
            f"the unit of work belongs to task {self.owner!r} and was used by task {self.user!r}; "
            f"open a separate unit in each task, and await child tasks before the block ends "
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
    """An error of the block was swallowed, so everything was rolled back.

    It is that of a statement, or one that left a unit which had joined this one. It is `__cause__`.

    Args:
        joined: Where the unit was opened that had joined; empty when a statement failed.
    """

    def __init__(self, joined: str = "") -> None:
        self.joined = joined
        super().__init__(joined)

    def __str__(self) -> str:
        if self.joined:
            return (
                f"the unit that joined this one, opened at {self.joined}, did not end well, and "
                f"that was swallowed, so everything was rolled back; let its error out of the "
                f'block, or open that unit with nested="savepoint"'
            )
        return (
            "a statement of this unit failed and its error was swallowed, so everything was "
            "rolled back; let the error out of the block, or put the statement in "
            "`async with uow.savepoint():`"
        )


class TransactionEndedError(DbManagerError):
    """The transaction ended during the block, and the unit did not end it.

    For example, the bare driver sent COMMIT or ROLLBACK. One that goes through SQLAlchemy is
    refused before it is sent, with `UnitOfWorkStateError`.

    Args:
        what: How the transaction ended, as far as it is known.
        undone: True when nothing of the unit was written; False when that cannot be known.
    """

    def __init__(self, what: str, *, undone: bool) -> None:
        self.what = what
        self.undone = undone
        super().__init__(what, undone)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _ended, self.args

    def __str__(self) -> str:
        written = "nothing was written" if self.undone else "its writes may or may not be committed"
        return (
            f"{self.what} before the block ended: {written}; leave COMMIT and ROLLBACK to the "
            f"unit, and open a separate unit for what must be committed separately"
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
            f"the unit's last flush and its listeners took longer than exit_timeout, "
            f"{self.seconds:g} s: COMMIT was not sent, and everything was rolled back"
        )


class CommitOutcomeUnknownError(DbManagerError):
    """COMMIT was sent and no answer came: the unit may or may not be committed.

    Never retry blindly. Find out first, with `await resolve(engine, error)` or by looking for the
    unit's rows.

    Args:
        unit: Number of the unit.
        reason: What happened to the answer, in one line, without the error's text.
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
            else f"call `await resolve(engine, error)` (transaction {self.xid})"
            if self.xid
            else "it had written nothing"
        )
        return f"unit {self.unit}: COMMIT was sent, its outcome is unknown ({self.reason}); {how}"


class PoolExhaustedError(DbManagerError, TimeoutError):
    """No connection became free in time.

    Args:
        size: Most connections that the pool may hold; while the server refuses more, the number
            that it has.
        waited: Seconds the unit waited.
        holders: The units that hold them, one line each, longest first.
        what: What ran out: `connections`, or `SQLite's one writer`.
        refusal: What the server answered when the pool asked for more connections, if it refused.
        database: Name of the plugin of the database; empty for the first one, `db_manager`.
    """

    def __init__(
        self,
        size: int,
        waited: float,
        holders: Iterable[str],
        what: str = "connections",
        refusal: str = "",
        database: str = "",
    ) -> None:
        self.size = size
        self.waited = waited
        self.holders = tuple(holders)
        self.what = what
        self.refusal = refusal
        self.database = database
        super().__init__(size, waited, self.holders, what, refusal, database)

    def __str__(self) -> str:
        of = f" of {self.database!r}" if self.database else ""
        busy = "the only connection{} was" if self.size == 1 else "all {1} connections{0} were"
        busy = busy.format(of, self.size)
        key = f"the pool_size{of}" if of else "[database] pool_size"
        fix = f"Make units shorter (no Telegram call inside), or raise {key}"
        if self.refusal:
            fix = f"The server refuses more: {self.refusal}"
        if self.what != "connections":
            busy = f"{self.what}{of} was"
            fix = "Make units shorter, or open those that only read with read_only=True"
        held = "; ".join(self.holders) or "no unit, so by code outside of units, or until just now"
        return f"{busy} busy for {self.waited:.1f} s; held by: {held}. {fix}"


class BackupError(DbManagerError):
    """A backup was not made; no file of its name appeared. Added in 0.2."""


class DatabaseUnavailableError(DbManagerError, ConnectionError):
    """The database cannot be reached now. No transaction was begun: it is safe to try again.

    Args:
        reason: The error of the connection attempt, in one line, without secrets.
        database: Name of the plugin of the database; empty for the first one, `db_manager`.
    """

    def __init__(self, reason: str, database: str = "") -> None:
        self.reason = reason
        self.database = database
        super().__init__(reason)  # an OSError would take a second argument for its text

    def __str__(self) -> str:
        name = f" {self.database!r}" if self.database else ""
        return f"the database{name} is unavailable: {self.reason}"


class RetriesExhaustedError(DbManagerError):
    """Every attempt of `run` failed with a retryable error.

    The last error is `__cause__`.

    Args:
        attempts: Number of attempts.
        seconds: Seconds from the start of the first attempt to the end of the last.
    """

    def __init__(self, attempts: int, seconds: float) -> None:
        self.attempts = attempts
        self.seconds = seconds
        super().__init__(attempts, seconds)

    def __str__(self) -> str:
        return f"gave up after {counted(self.attempts, 'attempt')} in {self.seconds:.2f} s"


class ManagerClosedError(DbManagerError, RuntimeError):
    """The plugin is stopping or stopped: no unit can be opened.

    Args:
        database: Name of the plugin of the database; empty for the first one, `db_manager`.
    """

    def __init__(self, database: str = "") -> None:
        self.database = database
        super().__init__(database)

    def __str__(self) -> str:
        name = self.database or "db_manager"
        return (
            f"{name} is stopping or stopped: no unit of work can be opened; "
            f"do this work earlier, in a plugin that requires {name}"
        )


class ReadOnlyUnsupportedError(DbManagerError):
    """This engine cannot refuse writes, so it has no read-only units.

    Args:
        database: Name of the engine's database.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        super().__init__(database)

    def __str__(self) -> str:
        return (
            f"an engine of your own for {self.database} cannot refuse writes; build it with "
            f"`create_engine(DatabaseConfig(...))`, or open the unit without read_only"
        )


class TableNameError(DbManagerError, ValueError):
    """A table name breaks the convention `plugin_name__table_name`, or is another model's."""
