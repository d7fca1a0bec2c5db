"""The end of a unit's transaction: what was sent, what was answered, and what that means."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.exc import InterfaceError

from db_manager.database.database import Database
from db_manager.database.open_unit import ACTIVE, COMMITTED, COMMITTING, OpenUnit, UnitState
from db_manager.dialects.in_use import origin
from db_manager.errors import (
    CommitOutcomeUnknownError,
    EndTimeoutError,
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkTaskError,
)
from db_manager.lanes.session import SyncUnitSession
from db_manager.unit.driven import Driven
from db_manager.unit.held import Send
from lifecycle.error_text import tell

_NO_ANSWER: Final = "no answer in time"
_CUT: Final = "a statement of this unit committed everything before it (DDL does on MariaDB)"
_BEHIND: Final = "the bare driver ended the transaction of this unit"


class Transaction(Driven):
    """The transaction of a unit, and its end.

    `finish` runs in one greenlet, shielded from every cancellation except that of its deadline. It
    never raises: errors are recorded in the unit.

    Args:
        unit: The unit it belongs to.
        database: Provides the connection.
        isolation_level: SQLAlchemy's name of the isolation level, or None for the engine's.
        options: Execution options of its connection.
        resolvable: Ask for the transaction's id before COMMIT.
    """

    __slots__ = ("_ending", "_refusal", "_sent", "_undone", "late", "resolvable")

    def __init__(
        self,
        unit: OpenUnit,
        database: Database,
        *,
        isolation_level: str | None,
        options: Mapping[str, Any],
        resolvable: bool,
    ) -> None:
        super().__init__(unit, database, isolation_level, options)
        self.resolvable = resolvable
        self._factories: dict[str, Any] = {}
        self.drove = False
        #: True once the deadline of its end (`exit_timeout`) has passed. Asked of a clock, that of
        #: the event loop might be behind: uvloop's timers come up to a millisecond early.
        self.late = False
        self._refusal: BaseException | None = None  # the driver's error for COMMIT
        #: True once the unit itself has sent COMMIT or ROLLBACK.
        self._sent = False
        self._ending = self._undone = False

    def awaits_commit(self) -> bool:
        """Return True from the moment COMMIT is sent until it is answered."""
        return self._unit.state is COMMITTING

    def is_statement(self, awaited: object) -> bool:
        """Return True if *awaited* is a statement, whose driver cancels no task."""
        return self._dialect.is_statement(awaited)

    def expire(self) -> None:
        """Note that the deadline of the end has passed."""
        self.late = True

    def moved(self) -> None:
        """Let the running task use the unit: a flush of the session checks the owner."""
        self._unit.task = asyncio.current_task()

    def finish(self) -> None:
        """Commit, or roll back if there is a cause; then return the connection."""
        self._ending = True
        self.moved()
        if self.drove:
            self.undrive()
        if self._unit.cause:
            self._roll_back()
        else:
            self._commit()
        if self._driver is not None and self._dialect.is_half_done(self._driver):
            self.drop()
        if self._unit.ended is not None:
            self.drop()  # the driver and SQLAlchemy disagree about its state
        self.release()

    # -- COMMIT ---------------------------------------------------------------------------

    def _commit(self) -> None:
        """Flush, run SQLAlchemy's listeners, send COMMIT, and evaluate the answer."""
        unit = self._unit
        session = self.session.sync_session if self.session is not None else None
        try:
            self._refuse_to_commit(session)
            if session is not None and session.takes_part():
                session.finish()  # it may send COMMIT: `commit_by`
            if unit.checked_out is None:
                unit.state = COMMITTED
            elif unit.state is ACTIVE:
                if not unit.checked_out.in_transaction():  # what was sent bypassed SQLAlchemy
                    unit.checked_out.begin()
                unit.checked_out.commit()  # as above
        except BaseException as error:  # noqa: BLE001 -- raised to the caller after the rollback
            self._judge(error)

    def _refuse_to_commit(self, session: SyncUnitSession | None) -> None:
        unit = self._unit
        if unit.failed is not None or (session is not None and not session.is_active):
            raise unit.swallowed()
        if self._pooled is not None and self._pooled.dbapi_connection is None:
            raise TransactionEndedError("the connection of this unit was closed", undone=True)

    def commit_by(self, send: Send) -> None:
        """Send COMMIT with *send*; until it is answered, only the server knows the outcome.

        Raises:
            UnitOfWorkStateError: The unit is not ending: code in its block tried to commit.
            TransactionEndedError: The transaction that the unit began has already ended.
            TransactionAbortedError: A statement that bypassed SQLAlchemy failed.
        """
        unit = self._unit
        pooled = self._pooled
        session = None if self.session is None else self.session.sync_session
        flushed = session is None or session.flushed or not session.is_flushing()
        if pooled is None or not self._ending or not flushed:
            self.refuse("COMMIT")
        self._look()
        if unit.ended is not None:
            raise unit.ended
        if unit.failed is not None:  # after the block: a listener swallowed it
            self._refuse_to_commit(None)
        if self._dialect.is_aborted(pooled, self._driver):
            raise TransactionAbortedError
        if self.resolvable:
            unit.xid = self._dialect.transaction_id(pooled)
        unit.state, self._sent = COMMITTING, True
        try:
            send(pooled)
        except BaseException as error:
            self._refusal = error
            raise
        if unit.state is COMMITTING:  # otherwise it was given up, and its outcome is set
            unit.state = COMMITTED

    def _judge(self, error: BaseException) -> None:
        """Set the outcome after *error*, by what was sent and what was answered."""
        unit = self._unit
        if unit.state is COMMITTED:  # raised by a listener; the commit stands
            self.listener_error = error
            return
        refused = isinstance(error, InterfaceError)  # by the driver, not by the server
        busy = refused and self._dialect.is_other_task_busy(origin(error))
        said = self._refusal or error  # a listener may have replaced it with its own
        unsent = unit.state is ACTIVE
        if unsent or (unit.state is COMMITTING and self._dialect.commit_is_undone(said)):
            self._fail(error, busy=busy)
        elif unit.state is COMMITTING:
            late = isinstance(said, (asyncio.CancelledError, TimeoutError))
            self._lose(_NO_ANSWER if late else tell(said), error)

    def _fail(self, error: BaseException, *, busy: bool) -> None:
        unit = self._unit
        unit.error = error
        if busy:
            unit.error = UnitOfWorkTaskError(unit.owner_name, "one that is still running")
            unit.error.__cause__ = error
        elif self.late and isinstance(error, asyncio.CancelledError):
            unit.error = EndTimeoutError(self._database.settings.exit_timeout)
            unit.error.__cause__ = error
        unit.cause = "error"
        self._roll_back()

    def _lose(self, reason: str, error: BaseException | None) -> None:
        unit = self._unit
        unit.error = CommitOutcomeUnknownError(unit.number, reason, unit.xid)
        unit.error.__cause__ = error
        unit.state = UnitState.OUTCOME_UNKNOWN

    # -- ROLLBACK -------------------------------------------------------------------------

    def _roll_back(self) -> None:
        unit = self._unit
        unit.state = UnitState.ROLLING_BACK
        try:
            self._look()
            if self.drove and unit.cause == "cancelled":
                self.drop()  # SQLAlchemy does so itself for its own statements
            if self.session is not None:
                self.session.sync_session.undo()
            if unit.checked_out is not None and unit.checked_out.in_transaction():
                unit.checked_out.rollback()
            # After a refused COMMIT SQLAlchemy sends no ROLLBACK. But SQLite then keeps its
            # transaction, and so does every database if we refused the COMMIT.
            if not self._undone and unit.checked_out is not None:
                self._roll_back_at_driver(unit.checked_out)
        except BaseException as error:  # noqa: BLE001 -- the block's own error is what matters
            unit.rollback_error = error
            self.drop()
        self._conclude()

    def _conclude(self) -> None:
        """Set the final state of a unit that was not committed; call `_look` before."""
        unit = self._unit
        if unit.state is not UnitState.ROLLING_BACK:  # it was given up
            return
        # Without a COMMIT the server keeps nothing, even if ROLLBACK failed.
        unit.state = UnitState.ROLLED_BACK
        cuts = self._dialect.implicit_commits(self._driver)
        if unit.ended is None and (unit.implicit_commits if cuts is None else cuts) != self._cuts:
            unit.ended = TransactionEndedError(_CUT, undone=False)
        if unit.ended is not None:
            if unit.error is None:
                unit.error = unit.ended
            elif unit.error is not unit.ended:
                unit.error.add_note(str(unit.ended))
            unit.state = UnitState.OUTCOME_UNKNOWN

    def _roll_back_at_driver(self, connection: Connection) -> None:
        if not (connection.closed or connection.invalidated):
            self.roll_back_by(self._guard.send_rollback)

    def roll_back_by(self, send: Send) -> None:
        """Send ROLLBACK with *send*; if the unit is active, note that everything was undone."""
        unit = self._unit
        if unit.state is ACTIVE:
            self.mark_undone("ROLLBACK was sent in the block of this unit")
        self._look()
        ours = unit.state is not ACTIVE
        self._sent = self._sent or ours
        pooled = self._pooled
        if pooled is not None:
            try:
                send(pooled)
            finally:
                if not ours:
                    self._ends = self._dialect.ends(self._driver)
            self._undone = self._undone or ours
        if self.drove and not ours:
            self.drop()  # on the driver's lane each later statement would commit by itself

    def _look(self) -> None:
        """Notice that the transaction was ended at the bare driver; without a round trip."""
        unit = self._unit
        pooled = self._pooled
        if unit.ended is not None or pooled is None or self._sent:
            return
        if unit.read_only:  # it wrote nothing
            return
        dialect, adapter = self._dialect, pooled.dbapi_connection
        if dialect.was_ended(adapter, self._driver, self._ends) or (
            adapter is not None and dialect.is_autocommit(adapter, self._driver)
        ):
            unit.ended = TransactionEndedError(_BEHIND, undone=False)

    def give_up(self) -> None:
        """Drop the connection without contacting the server, and set the outcome.

        Called if `finish` does not end, not even after its cancellation, and for an abandoned unit.
        """
        unit = self._unit
        if unit.state is COMMITTING:
            self._lose(_NO_ANSWER, None)
        elif unit.state in {ACTIVE, UnitState.ROLLING_BACK}:
            unit.cause = unit.cause or "error"
            unit.error = unit.error or EndTimeoutError(self._database.settings.exit_timeout)
            self._look()
            unit.state = UnitState.ROLLING_BACK
            self._conclude()
        self._hang_up()

    def _hang_up(self) -> None:
        """Drop the connection without contacting the server. Runs outside a greenlet, no wait."""
        connection = self._unit.checked_out
        try:
            if connection is not None:
                self._database.checkout.forget(connection, self._unit)
                if not (connection.closed or connection.invalidated):
                    self._dialect.hang_up(connection)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands, and it is reported
            self.listener_error = self.listener_error or error
        finally:
            if self._pooled is not None:
                self._guard.lent.pop(self._pooled, None)
            self.session = self.core = self._unit.checked_out = self._pooled = self._driver = None
