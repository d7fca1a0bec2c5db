"""The end of a unit: decide, send COMMIT or ROLLBACK, publish, run callbacks, raise."""

import asyncio
import time
import warnings
from collections.abc import Awaitable

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.callbacks import Callbacks, report_failure, run_callbacks
from db_manager.database.database import Database
from db_manager.database.open_unit import COMMITTED, ReadOnly, UnitState, task_name
from db_manager.errors import UnitOfWorkStateError, UnitOfWorkTaskError
from db_manager.events import Cause
from db_manager.lanes.lane import Unit
from db_manager.unit.publish import report_end
from db_manager.unit.savepoint import Savepoints
from db_manager.unit.transaction import Transaction
from lifecycle.correlation import Scope, end_correlation
from lifecycle.error_text import tell


class EndingUnit(Unit):
    """A unit with its transaction and callbacks, and its end.

    Args:
        engine: As for `UnitOfWork`.
        read_only: As for `UnitOfWork`.
        isolation_level: SQLAlchemy's name of the isolation level, or None for the engine's.
        resolvable: Keep the transaction's id; None means the database's setting.

    Raises:
        ValueError: *isolation_level* is AUTOCOMMIT.
    """

    __slots__ = (
        "_callbacks",
        "_database",
        "_held",
        "_isolation_level",
        "_options",
        "_resolvable",
        "_savepoints",
        "_scope",
        "defer_callbacks",
    )

    def __init__(
        self,
        engine: AsyncEngine | Database,
        *,
        read_only: ReadOnly = False,
        isolation_level: str | None = None,
        resolvable: bool | None = None,
    ) -> None:
        if isolation_level is not None and isolation_level.upper() == "AUTOCOMMIT":
            raise ValueError(
                "a unit of work cannot be AUTOCOMMIT: there would be nothing to roll back; "
                "use `engine.connect()`, or read_only=True for statements that only read"
            )
        super().__init__(read_only)
        self._database = database = Database.of(engine)
        self._options = database.options_of(engine)
        self._isolation_level = isolation_level
        self._resolvable = resolvable
        self._held: Transaction | None = None  # before its first use
        self._callbacks: Callbacks | None = None
        self._savepoints: Savepoints | None = None
        self.defer_callbacks = False
        self._scope: Scope

    def _hold(self) -> Transaction:
        """Return its transaction, made at the first use: an empty unit needs none."""
        if self._held is None:
            resolvable = self._resolvable
            self._held = Transaction(
                self,
                self._database,
                isolation_level=self._isolation_level,
                options=self._options,
                resolvable=self._database.settings.resolvable if resolvable is None else resolvable,
            )
        return self._held

    @property
    def engine(self) -> AsyncEngine:
        """The engine of its database."""
        return self._database.engine

    def connect(self) -> Connection:
        """Return the connection; the first call checks it out. Runs inside a greenlet."""
        return self._hold().connect()

    def _registered(self) -> Callbacks:
        if self._callbacks is None:
            self._callbacks = Callbacks()
        return self._callbacks

    # -- the end --------------------------------------------------------------------------

    def abandon(self) -> None:
        """Drop the connection: the task that entered the unit has ended without leaving it."""
        error = UnitOfWorkStateError(
            self.state,
            f"task {self.owner_name!r} ended without leaving its unit",
            "enter units only with `async with`",
        )
        self.error = error
        self._hold().give_up()
        self._tell(error)
        end_correlation(self._scope)
        warnings.warn(
            str(error), ResourceWarning, stacklevel=2
        )  # last: warnings may be turned into errors

    async def _end(self, exc: BaseException | None) -> None:
        """End the unit; *exc* is the error that left the block, which Python re-raises."""
        transaction = self._held
        if exc is None:
            self._look_at_task()
            if transaction is not None and self.error is None and transaction.has_to_connect():
                await self._connect_for_flush(transaction)
        self._decide(exc)
        interrupted: BaseException | None = None
        if transaction is None or transaction.is_untouched():
            self.state = UnitState.ROLLED_BACK if self.cause else COMMITTED
        else:
            interrupted = await self._finish(transaction)
        self._tell(exc)
        if self._callbacks is not None and not self.defer_callbacks:
            interrupted = await self.run_callbacks() or interrupted
        end_correlation(self._scope)
        self._raise(exc, interrupted)

    def _look_at_task(self) -> None:
        task = asyncio.current_task()
        if task is not self.owner:
            self.error = UnitOfWorkTaskError(self.owner_name, task_name(task))

    async def _connect_for_flush(self, transaction: Transaction) -> None:
        """Wait for a connection as a statement does: up to `pool_timeout`, and cancellable."""
        try:
            await self.runner.run(transaction.connect)
        except BaseException as wrong:  # noqa: BLE001 -- raised when the unit has ended
            self.error = wrong

    def _decide(self, exc: BaseException | None) -> None:
        """Set the cause of a rollback, if an error left the block or prevents the commit."""
        error = self.error if exc is None else exc
        if error is not None and not self.cause:
            self.cause = self._cause_of(error)

    def _cause_of(self, error: BaseException) -> Cause:
        if isinstance(error, asyncio.CancelledError):
            return "cancelled"
        if isinstance(error, self._database.settings.control_flow):
            return "control_flow"
        return "error"

    def _finish(self, transaction: Transaction) -> Awaitable[asyncio.CancelledError | None]:
        """End the transaction, shielded; return a cancellation that arrived meanwhile."""
        patience = self._database.settings.exit_timeout
        transaction.late_at = time.perf_counter() + patience
        return self.runner.finish(transaction, patience)

    def _tell(self, exc: BaseException | None) -> None:
        """Publish how the unit ended, after everything was released."""
        database, transaction = self._database, self._held
        database.open.leave(self.owner)
        report_end(self, database, self.error if exc is None else exc)
        if transaction is not None and transaction.listener_error is not None:
            late = transaction.listener_error
            report_failure("a listener of SQLAlchemy's", self.number, database.bus, late)

    async def run_callbacks(self) -> BaseException | None:
        """Run the callbacks for the outcome, each with `exit_timeout` as its deadline.

        Returns:
            What to raise after them; see `callbacks.run_callbacks`.
        """
        if self._callbacks is None or self.state is UnitState.OUTCOME_UNKNOWN:
            return None
        registered, database = self._callbacks, self._database
        committed = self.state is COMMITTED
        return await run_callbacks(
            registered.after_commit if committed else registered.after_rollback,
            self.number,
            database.bus,
            database.settings.exit_timeout,
        )

    def _raise(self, exc: BaseException | None, interrupted: BaseException | None) -> None:
        """Raise what the caller must know, unless *exc*, which Python re-raises, is enough.

        `SystemExit` and `KeyboardInterrupt` of a callback take precedence, because they concern
        more than this unit. Then come the block's own error, ours, and the cancellation.
        """
        if exc is not None:
            self._note(exc)
        if isinstance(interrupted, (SystemExit, KeyboardInterrupt)):
            raise interrupted
        error = interrupted if self.error is None else self.error
        if exc is None and error is not None:
            raise error

    def _note(self, exc: BaseException) -> None:
        if self.rollback_error is not None:
            exc.add_note(f"the rollback failed as well: {tell(self.rollback_error)}")
        if self.ended is not None:
            exc.add_note(str(self.ended))
