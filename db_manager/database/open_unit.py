"""The record of an open unit: identity, progress and outcome."""

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from enum import StrEnum
from types import CodeType
from typing import Any, Final, Literal, get_args

from sqlalchemy.engine import Connection

from db_manager.database.places import place_text
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.safe_text import said_last
from db_manager.errors import (
    DbManagerError,
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import Cause
from lifecycle.correlation import Correlation
from lifecycle.error_text import tell

ReadOnly = Literal[False, True, "snapshot", "replica"]
_READ_ONLY: Final = get_args(ReadOnly)
#: What becomes of a unit that is entered while its task has one open.
Nested = Literal["refuse", "join", "savepoint"]

_numbers = itertools.count(1)
_NOWHERE: Final = Correlation()


class UnitState(StrEnum):
    """The state of a unit; the last four are those of one that has ended."""

    NEW = "new"
    ACTIVE = "active"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    OUTCOME_UNKNOWN = "outcome_unknown"
    #: The block of a unit inside of another one is over, and its fate is that of what is around
    #: it. A savepoint there that is rolled back makes it `rolled_back`.
    JOINED = "joined"

    @property
    def is_final(self) -> bool:
        """True once the unit has ended."""
        return self in _FINAL


_FINAL = frozenset(
    {UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN, UnitState.JOINED}
)

# Looked up once: on Python 3.11 access to an enum member costs as much as four method calls, and
# every unit takes more than ten of them.
NEW: Final = UnitState.NEW
ACTIVE: Final = UnitState.ACTIVE
COMMITTING: Final = UnitState.COMMITTING
COMMITTED: Final = UnitState.COMMITTED


class OpenUnit(ABC):
    """The record of a unit, without its lanes.

    The database, the statement counters and the transaction use a unit through this class.

    Args:
        read_only: True for statements that only read, without a common transaction; `"snapshot"`
            if they must see the same state of the data; `"replica"` if that may be an older one.

    Raises:
        ValueError: *read_only* is something else.
    """

    __slots__ = (
        "__weakref__",
        "attempt",
        "began_at",
        "cause",
        "checked_out",
        "correlation",
        "database_time",
        "ended",
        "entered_at",
        "entered_by",
        "error",
        "failed",
        "holds_writer",
        "implicit_commits",
        "number",
        "owner",
        "read_only",
        "rollback_error",
        "sent_at",
        "state",
        "statement",
        "statements",
        "task",
        "waited",
        "warned",
        "xid",
    )

    def __init__(self, read_only: ReadOnly) -> None:
        # Identity.
        self.number = next(_numbers)
        self.read_only: ReadOnly = read_only
        if read_only and read_only not in _READ_ONLY:
            raise ValueError(f"read_only is {read_only!r}; it is one of {_READ_ONLY}")
        self.attempt = 1
        self.correlation = _NOWHERE  # before it is entered
        #: The task that entered it, and the task that may use it, which differs while it ends.
        self.owner: asyncio.Task[Any] | None = None
        self.task: asyncio.Task[Any] | None = None
        #: The code that entered it, and the position in it: what `place` is made of.
        self.entered_by: CodeType
        self.entered_at: int
        # Progress; times are in seconds.
        #: Its state; `committed` only if the server confirmed it.
        self.state: UnitState = NEW
        self.statements = 0
        self.statement: object = ""  # the last one; compiled only when it is shown
        self.database_time = self.sent_at = self.began_at = self.waited = 0.0
        #: The first error of a statement, kept in case the block swallows it.
        self.failed: BaseException | None = None
        #: Its connection, from the first statement to the end.
        self.checked_out: Connection | None = None
        self.holds_writer = self.warned = False
        #: Implicit commits by its statements, counted here if the driver does not count them.
        self.implicit_commits = 0
        # Outcome.
        self.cause: Cause = ""
        self.error: BaseException | None = None
        self.rollback_error: BaseException | None = None
        #: Set when the transaction ended before the unit ended it, with an unknown outcome.
        self.ended: TransactionEndedError | None = None
        self.xid: int | None = None

    @abstractmethod
    def abandon(self) -> None:
        """Drop the connection: the task that entered the unit has ended without leaving it."""

    @abstractmethod
    async def run_callbacks(self) -> BaseException | None:
        """Run the callbacks for the outcome after the unit has ended; return what to raise."""

    @abstractmethod
    def went_back(self) -> None:
        """Note that ROLLBACK TO SAVEPOINT was sent and answered."""

    def check(self) -> None:
        """Raise unless the unit is active and the running task owns it.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        if self.state is not ACTIVE:
            raise UnitOfWorkStateError(
                self.state, "it cannot be used now", "use it inside its `async with` block"
            )
        if asyncio.current_task() is not self.task:
            raise self.error_of_task()

    @property
    def has_transaction(self) -> bool:
        """False where each statement commits by itself: `read_only=True` and `"replica"`."""
        return not self.read_only or self.read_only == "snapshot"

    def need_transaction(self, what: str) -> None:
        """Raise if the unit has no transaction, which *what* needs.

        Some databases would allow it and others would not; a unit behaves the same on all of them.

        Raises:
            UnitOfWorkStateError: The unit was opened with `read_only=True` or `"replica"`.
        """
        if not self.has_transaction:
            raise UnitOfWorkStateError(
                self.state,
                f"{what} needs a transaction, and read_only={self.read_only!r} has none",
                'open it with read_only="snapshot"',
            )

    @property
    def place(self) -> str:
        """Where it was entered, as `bot/notes.py:42 in save`; there once it was."""
        return place_text(self.entered_by, self.entered_at)

    @property
    def owner_name(self) -> str:
        """Name of the task that entered the unit."""
        return task_name(self.owner)

    def mark_failed(self, error: BaseException) -> None:
        """Keep the first error of a statement, in case the block swallows it."""
        if self.state is ACTIVE and self.failed is None:
            self.failed = error

    def swallowed(self) -> DbManagerError:
        """Return the error of a block that swallowed the one in `failed`."""
        if isinstance(self.failed, (TransactionEndedError, TransactionAbortedError)):
            return self.failed
        aborted = TransactionAbortedError()
        aborted.__cause__ = self.failed
        return aborted

    def error_of_task(self) -> UnitOfWorkTaskError:
        """Return the error of the running task, which is not that of the unit."""
        return UnitOfWorkTaskError(self.owner_name, task_name(asyncio.current_task()))

    def note_on(self, exc: BaseException) -> None:
        """Add to the error of its block what else went wrong."""
        if self.rollback_error is not None:
            exc.add_note(f"the rollback failed as well: {tell(self.rollback_error)}")
        if self.ended is not None:
            exc.add_note(str(self.ended))

    def describe(self, dialect: Dialect) -> str:
        """Return a readable description: plugin, handler, update, age, last statement.

        Args:
            dialect: The dialect of its database.
        """
        where = self.correlation
        parts = [f"unit {self.number}"]
        if where.plugin:
            parts.append(f"plugin {where.plugin}")
        if where.handler:
            parts.append(f"handler {where.handler}")
        if where.update_id is not None:
            parts.append(f"update {where.update_id}")
        parts.append(f"open {time.perf_counter() - self.began_at:.1f} s")
        if said := said_last(self.statement, dialect):
            parts.append(f"last statement {said[:80]!r}")
        return ", ".join(parts)


def task_name(task: asyncio.Task[Any] | None) -> str:
    """Return the name of *task*, or `none`."""
    return task.get_name() if task is not None else "none"
