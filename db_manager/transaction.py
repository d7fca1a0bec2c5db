"""The database's side of a unit: its connection, its session, and the truth about its end."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

from db_manager import classify
from db_manager.connection import UnitConnection
from db_manager.driver import (
    Ends,
    begin_for_driver,
    ends_of,
    is_aborted,
    is_autocommit,
    terminate,
    transaction_id,
    was_cut,
    was_ended,
)
from db_manager.errors import (
    CommitOutcomeUnknownError,
    EndTimeoutError,
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import Cause
from db_manager.guard import Guard, Guarded, Send
from db_manager.lanes import refuse
from db_manager.session import SyncUnitSession, UnitSession
from lifecycle.telling import tell

if TYPE_CHECKING:
    from db_manager.database import Database
    from db_manager.uow import UnitOfWork

_NO_ANSWER: Final = "no answer in time"
_CUT: Final = "a statement of this unit committed what was before it (DDL does on MariaDB)"
_BEHIND: Final = "somebody ended the transaction of this unit at the bare driver"


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
        "_driver",
        "_ending",
        "_ends",
        "_lent",
        "_pooled",
        "_ready",
        "_refusal",
        "_resolvable",
        "_undone",
        "_unit",
        "cause",
        "connection",
        "core",
        "drove",
        "ended",
        "error",
        "failed",
        "holds_writer",
        "isolation_level",
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
        self.isolation_level = isolation_level
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
        #: What a listener of SQLAlchemy's raised after COMMIT had been answered, or while the
        #: connection was given back; it is reported and changes nothing.
        self.listener_error: BaseException | None = None
        self.xid: int | None = None
        #: Set when somebody ended the transaction before its unit did, nobody knows how.
        self.ended: TransactionEndedError | None = None
        self.holds_writer = self.drove = False
        #: The connection below SQLAlchemy's, and how many transactions had ended on it before.
        self._pooled: PoolProxiedConnection | None = None
        self._driver: Any = None
        self._ends = Ends(0, 0)
        self._lent: dict[PoolProxiedConnection, Guarded] = {}
        self._refusal: BaseException | None = None  # what the driver raised for COMMIT
        self._ending = self._ready = self._undone = False

    def connect(self) -> Connection:
        """Return the connection, checked out now when it is the first use; in a greenlet."""
        connection = self.connection
        if connection is None:
            self._unit.check()
            try:
                connection = self._check_out()
            except BaseException as error:
                self.mark_failed(error)  # the block may swallow it, and lose the statement
                raise
        elif connection.invalidated:  # SQLAlchemy would connect again and begin anew
            raise self._mark_undone("the connection of this unit was given up")
        elif not self._ready:
            raise TransactionAbortedError from self.failed
        return connection

    def _check_out(self) -> Connection:
        # Held before anything else is waited for: a cancellation leaves it to the unit's end.
        self.connection = connection = self._database.connect(self._unit, self)
        self._pooled = pooled = connection.connection
        self._lent = Guard.of(connection.dialect).lent
        self._lent[pooled] = self
        self._driver = pooled.driver_connection
        self._ends = ends_of(self._driver)
        self._database.make_ready(connection, self._unit, self.isolation_level)
        if not self._unit.read_only and is_autocommit(connection):
            self.refuse("an engine in AUTOCOMMIT")
        self._ready = True
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
        self._ending = True
        if self.cause:
            self._roll_back()
        else:
            self._commit()
        self._release()

    # -- COMMIT ---------------------------------------------------------------------------

    def _commit(self) -> None:
        """Flush, let listeners do what they like, send COMMIT, and learn what became of it."""
        session = self.session.sync_session if self.session is not None else None
        try:
            self._refuse_to_commit(session)
            if session is not None and session.takes_part:
                Session.commit(session)  # flushes until nothing is pending, then `commit_by`
            if self.connection is None:
                self.state = UnitState.COMMITTED
            elif self.state is UnitState.ACTIVE:
                if not self.connection.in_transaction():  # somebody went past SQLAlchemy
                    self.connection.begin()
                self.connection.commit()  # as above
        except BaseException as error:  # noqa: BLE001 -- it reaches the caller after the rollback
            self._judge(error)

    def _refuse_to_commit(self, session: SyncUnitSession | None) -> None:
        if self.failed is not None or (session is not None and not session.is_active):
            if isinstance(self.failed, TransactionEndedError):
                raise self.failed
            raise TransactionAbortedError from self.failed
        if self.connection is not None and (self.connection.closed or self.connection.invalidated):
            raise TransactionEndedError("the connection of this unit was closed", undone=True)

    def commit_by(self, send: Send) -> None:
        """Send COMMIT by *send*: from here to its answer the outcome is the server's.

        Raises:
            UnitOfWorkStateError: It is not the unit that ends, but somebody in its block.
            TransactionEndedError: The transaction that the unit began is there no more.
            TransactionAbortedError: A statement failed that went past SQLAlchemy.
        """
        pooled = self._pooled
        if not self._ending or pooled is None:
            self.refuse("COMMIT")
        self._look()
        if self.ended is not None:
            raise self.ended
        if is_aborted(pooled, drove=self.drove):
            raise TransactionAbortedError
        if self._resolvable:
            self.xid = transaction_id(pooled)
        self.state = UnitState.COMMITTING
        try:
            send(pooled)
        except BaseException as error:
            self._refusal = error
            raise
        finally:
            self._ends = ends_of(self._driver)
        self.state = UnitState.COMMITTED

    def _judge(self, error: BaseException) -> None:
        """Say what *error* of the end means: by what was sent and what was answered."""
        if self.state is UnitState.COMMITTED:  # a listener's, and the rows are there
            self.listener_error = error
        elif self.state is UnitState.ACTIVE:  # COMMIT was not sent
            self._fail(error)
        else:
            # A listener may have put its own error in the place of the driver's.
            said = error if classify.origin(error) is self._refusal else self._refusal or error
            if classify.commit_is_undone(said):
                self._fail(error)
            else:
                late = isinstance(said, (asyncio.CancelledError, TimeoutError))
                self._lose(_NO_ANSWER if late else tell(said), error)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        if classify.is_other_task_busy(error):
            self.error = UnitOfWorkTaskError(self._unit.owner_name, "one that is still at work")
            self.error.__cause__ = error
        elif isinstance(error, asyncio.CancelledError) and self._unit.is_late:
            self.error = EndTimeoutError(self._database.settings.exit_timeout)
            self.error.__cause__ = error
        self.cause = "error"
        self._roll_back()

    def _lose(self, reason: str, error: BaseException | None) -> None:
        self.error = CommitOutcomeUnknownError(self._unit.number, reason, self.xid)
        self.error.__cause__ = error
        self.state = UnitState.OUTCOME_UNKNOWN

    # -- ROLLBACK -------------------------------------------------------------------------

    def _roll_back(self) -> None:
        self.state = UnitState.ROLLING_BACK
        self._look()
        if was_cut(self._driver, self._ends):
            self.ended = self.ended or TransactionEndedError(_CUT, undone=False)
        if self.drove and self.cause == "cancelled":
            self._drop()  # SQLAlchemy does so itself for what goes through it
        try:
            if self.session is not None:
                Session.rollback(self.session.sync_session)
            if self.connection is not None and self.connection.in_transaction():
                self.connection.rollback()
            # After a COMMIT that was refused SQLAlchemy sends no ROLLBACK, but SQLite keeps its
            # transaction then, and so does every database whose COMMIT we refused.
            if not self._undone and self.connection is not None:
                self._roll_back_at_driver(self.connection)
        except BaseException as error:  # noqa: BLE001 -- the block's own error is what matters
            self.rollback_error = error
            self._drop()
        # Without a COMMIT the server keeps nothing, whatever became of the ROLLBACK.
        self.state = UnitState.ROLLED_BACK
        if self.ended is not None:
            self.error = self.error or self.ended
            self.state = UnitState.OUTCOME_UNKNOWN

    def _roll_back_at_driver(self, connection: Connection) -> None:
        if not (connection.closed or connection.invalidated):
            connection.dialect.do_rollback(connection.connection)

    def roll_back_by(self, send: Send) -> None:
        """Send ROLLBACK by *send*: in the block of a unit it ends everything."""
        if not self._ending:
            self._mark_undone("somebody sent ROLLBACK for this unit")
        self._look()
        pooled = self._pooled
        if pooled is not None:
            try:
                send(pooled)
            finally:
                self._ends = ends_of(self._driver)
            self._undone = self._ending

    def _look(self) -> None:
        """Notice that somebody ended the transaction at the bare driver; asks nobody."""
        pooled = self._pooled
        if self.ended is not None or pooled is None or self._unit.read_only:
            return  # who only reads wrote nothing that could be there or not
        if was_ended(pooled, self._driver, self._ends):
            self.ended = TransactionEndedError(_BEHIND, undone=False)

    def _mark_undone(self, what: str) -> TransactionEndedError:
        error = TransactionEndedError(what, undone=True)
        self.mark_failed(error)
        return error

    def refuse(self, what: str) -> NoReturn:
        """Raise: *what* is not for the block of a unit.

        Raises:
            UnitOfWorkStateError: Always; swallowed, it lets nothing be committed.
        """
        try:
            refuse(self._unit, what)
        except UnitOfWorkStateError as error:
            self.mark_failed(error)
            raise

    # -- letting go -----------------------------------------------------------------------

    def _drop(self) -> None:
        """Close the connection instead of giving it back: nobody knows what is open on it."""
        connection = self.connection
        if connection is not None and not (connection.closed or connection.invalidated):
            connection.invalidate()

    def _release(self) -> None:
        if self.ended is not None:
            self._drop()  # the driver and SQLAlchemy do not agree on what is open on it
        try:
            if self.session is not None:
                Session.close(self.session.sync_session)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands
            self.listener_error = self.listener_error or error
            self._drop()
        try:
            if self.connection is not None:
                self._database.give_back(self.connection)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands
            self.listener_error = self.listener_error or error
            self._drop()
        self._let_go()

    def _let_go(self) -> None:
        if self.holds_writer:
            self.holds_writer = False
            self._database.free_writer()
        if self._pooled is not None:
            self._lent.pop(self._pooled, None)
        self.session = self.core = self.connection = self._pooled = self._driver = None

    def give_up(self) -> None:
        """Drop the line: even the polite close of a broken connection did not end."""
        if self.state is UnitState.COMMITTING:
            self._lose(_NO_ANSWER, None)
        elif self.state in {UnitState.ACTIVE, UnitState.ROLLING_BACK}:
            self.cause = self.cause or "error"
            self.error = self.error or EndTimeoutError(self._database.settings.exit_timeout)
            self.state = UnitState.ROLLED_BACK
        self.abandon()

    def abandon(self) -> None:
        """Drop the line without a word; outside of a greenlet, so nobody waits."""
        if self.connection is not None:
            self._database.forget(self.connection)
            terminate(self.connection)
        self._let_go()

    def mark_failed(self, error: BaseException) -> None:
        """Remember the first failed statement of the block."""
        if self.state is UnitState.ACTIVE and self.failed is None:
            self.failed = error
