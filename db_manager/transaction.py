"""The database's side of a unit: its connection, its session, and the truth about its end."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from db_manager import classify
from db_manager.connection import UnitConnection
from db_manager.driver import begin_for_driver, is_aborted, refuse_closed, terminate
from db_manager.errors import (
    CommitOutcomeUnknownError,
    TransactionAbortedError,
    UnitOfWorkTaskError,
    one_line,
)
from db_manager.events import Cause
from db_manager.session import SyncUnitSession, UnitSession

if TYPE_CHECKING:
    from db_manager.database import Database
    from db_manager.uow import UnitOfWork

_XID: Final = text("SELECT pg_current_xact_id_if_assigned()::text")


class UnitState(StrEnum):
    """Where a unit is in its life; the last three are final."""

    NEW = "new"
    ACTIVE = "active"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    OUTCOME_UNKNOWN = "outcome_unknown"


class Transaction:
    """What a unit holds at the database, and how that ends.

    `finish` runs in one greenlet, in a task that nobody cancels but its deadline, and never
    raises: what went wrong is in `error`.

    Args:
        unit: The unit it belongs to.
        database: Where connections come from.
        isolation_level: As SQLAlchemy names it, or None for the engine's own.
        resolvable: Ask for the transaction's id before COMMIT.
    """

    __slots__ = (
        "_database",
        "_isolation_level",
        "_resolvable",
        "_unit",
        "cause",
        "connection",
        "core",
        "drove",
        "error",
        "failed",
        "holds_writer",
        "listener_error",
        "rollback_error",
        "savepoints",
        "session",
        "state",
        "xid",
    )

    def __init__(
        self,
        unit: "UnitOfWork",
        database: "Database",
        *,
        isolation_level: str | None,
        resolvable: bool,
    ) -> None:
        self._unit = unit
        self._database = database
        self._isolation_level = isolation_level
        self._resolvable = resolvable
        self.state = UnitState.NEW
        self.connection: Connection | None = None
        self.session: UnitSession | None = None
        self.core: UnitConnection | None = None
        #: The first statement error, kept in case the block swallows it.
        self.failed: BaseException | None = None
        #: What was before each savepoint: the marks of the callbacks, and `failed`.
        self.savepoints: dict[object, tuple[tuple[int, int], BaseException | None]] | None = None
        self.cause: Cause = ""
        self.error: BaseException | None = None
        self.rollback_error: BaseException | None = None
        #: What a listener of SQLAlchemy's raised after COMMIT had been answered.
        self.listener_error: BaseException | None = None
        self.xid: int | None = None
        self.holds_writer = self.drove = False

    def connect(self) -> Connection:
        """Return the connection, checked out now when it is the first use; in a greenlet."""
        connection = self.connection
        if connection is None:
            self._unit.check()
            try:
                connection = self.connection = self._database.connect(self._unit, self)
                if self._isolation_level is not None:
                    connection.execution_options(isolation_level=self._isolation_level)
            except BaseException as error:
                self.mark_failed(error)  # the block may swallow it, and lose the statement
                raise
        return connection

    def drive(self) -> object:
        """Return the driver's connection, with the transaction begun; in a greenlet."""
        self.drove = True
        connection = self.connect()
        try:
            return begin_for_driver(connection)
        except BaseException as error:
            # Whether BEGIN reached the server is unknown. asyncpg would take the next unit's
            # transaction for a nested one, and its COMMIT would be a RELEASE: rows lost.
            self.mark_failed(error)
            self._drop()
            raise

    @property
    def untouched(self) -> bool:
        """True when no lane was ever opened: there is nothing to end."""
        return self.connection is None and self.session is None and self.failed is None

    def finish(self) -> None:
        """Commit, or roll back when there is a cause to; give the connection back."""
        if self.cause:
            self._roll_back()
        else:
            self._commit()
        self._release()

    def _commit(self) -> None:
        session = self.session.sync_session if self.session is not None else None
        try:
            connection = self._prepare(session)
        except BaseException as error:  # noqa: BLE001 -- it reaches the caller after the rollback
            self._fail(error)
            return
        if connection is None:
            self.state = UnitState.COMMITTED
            return
        self.state = UnitState.COMMITTING
        begun = connection.get_transaction()
        try:
            if session is not None and session.takes_part:
                Session.commit(session)
            if connection.in_transaction():
                connection.commit()
        except BaseException as error:  # noqa: BLE001 -- as above
            # SQLAlchemy forgets a transaction only when its COMMIT was answered: what came later
            # is an error of a listener, and the rows are there.
            if begun is not None and connection.get_transaction() is None:
                self.listener_error = error
                self.state = UnitState.COMMITTED
            elif classify.commit_is_undone(error):
                self._fail(error)
            else:
                self._lose(one_line(error) or "no answer in time", error)
        else:
            self.state = UnitState.COMMITTED

    def _prepare(self, session: SyncUnitSession | None) -> Connection | None:
        """Do all that may fail before COMMIT is sent."""
        if self.failed is not None or (session is not None and not session.is_active):
            raise TransactionAbortedError from self.failed
        if session is not None and session.takes_part:
            session.flush()
        connection = self.connection
        if connection is not None and self.holds_writer:
            refuse_closed(connection)
        if connection is not None and self.drove and is_aborted(connection):
            raise TransactionAbortedError
        if connection is not None and self._resolvable and connection.dialect.name == "postgresql":
            self.xid = int(connection.execute(_XID).scalar_one() or 0) or None
        return connection

    def _fail(self, error: BaseException) -> None:
        self.error = error
        if classify.is_other_task_busy(error):
            self.error = UnitOfWorkTaskError(self._unit.owner_name, "one that is still at work")
            self.error.__cause__ = error
        self.cause = "error"
        self._roll_back()

    def _lose(self, reason: str, error: BaseException | None) -> None:
        self.error = CommitOutcomeUnknownError(self._unit.number, reason, self.xid)
        self.error.__cause__ = error
        self.state = UnitState.OUTCOME_UNKNOWN

    def _roll_back(self) -> None:
        self.state = UnitState.ROLLING_BACK
        if self.drove and self.cause == "cancelled":
            self._drop()  # SQLAlchemy does so itself for what goes through it
        try:
            if self.session is not None:
                Session.rollback(self.session.sync_session)
            if self.connection is not None and self.connection.in_transaction():
                self.connection.rollback()
        except BaseException as error:  # noqa: BLE001 -- the block's own error is what matters
            self.rollback_error = error
            self._drop()
        # Without a COMMIT the server keeps nothing, whatever became of the ROLLBACK.
        self.state = UnitState.ROLLED_BACK

    def _drop(self) -> None:
        """Close the connection instead of giving it back: nobody knows what is open on it."""
        connection = self.connection
        if connection is not None and not (connection.closed or connection.invalidated):
            connection.invalidate()

    def _release(self) -> None:
        try:
            if self.session is not None:
                Session.close(self.session.sync_session)
        except BaseException:  # noqa: BLE001 -- the outcome stands
            self._drop()
        try:
            if self.connection is not None:
                self._database.give_back(self.connection)
        except BaseException:  # noqa: BLE001 -- the outcome stands
            self._drop()
        self._let_go()

    def _let_go(self) -> None:
        if self.holds_writer:
            self.holds_writer = False
            self._database.free_writer()
        self.session = self.core = self.connection = None

    def give_up(self) -> None:
        """Drop the line: even the polite close of a broken connection did not end."""
        if self.connection is not None:
            terminate(self.connection)
        if self.state is UnitState.COMMITTING:
            self._lose("no answer in time", None)
        elif self.state in {UnitState.ACTIVE, UnitState.ROLLING_BACK}:
            self.cause = self.cause or "cancelled"
            self.error = self.error or asyncio.CancelledError()
            self.state = UnitState.ROLLED_BACK
        self._let_go()

    def mark_failed(self, error: BaseException) -> None:
        """Remember the first failed statement of the block."""
        if self.state is UnitState.ACTIVE and self.failed is None:
            self.failed = error
