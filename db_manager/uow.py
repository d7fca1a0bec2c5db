"""The unit of work: one transaction, one task, one truth about how it ended."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.callbacks import Callback, Callbacks, report_failure, run_callbacks
from db_manager.connection import UnitConnection
from db_manager.database import Database
from db_manager.errors import (
    TransactionAbortedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import Cause
from db_manager.lanes import Unit
from db_manager.open_unit import ReadOnly, UnitState, task_name
from db_manager.reports import report_begin, report_end
from db_manager.running.port import Runner
from db_manager.session import UnitSession
from db_manager.transaction import Transaction
from lifecycle.correlation import Scope, current_correlation, end_correlation, set_correlation
from lifecycle.error_text import tell


class UnitOfWork(Unit):
    """One transaction: committed at the end of its block, rolled back when the block raises.

        async with UnitOfWork(engine) as uow:
            await uow.session.execute(...)

    The database knows nothing of a unit before its first statement: an empty one costs no round
    trip. One task enters it, uses it and leaves it.

    Args:
        engine: The engine, `db_manager:engine` or one of your own.
        read_only: True for statements that only read, each for itself; `"snapshot"` when they
            must see one state of the data. A write is refused by the database.
        isolation_level: As SQLAlchemy names it, for this unit alone.
        resolvable: Keep the transaction's id for `resolve`; None takes the engine's setting.

    Raises:
        ValueError: *isolation_level* is AUTOCOMMIT.
    """

    __slots__ = (
        "_callbacks",
        "_database",
        "_held",
        "_isolation_level",
        "_resolvable",
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
        self._database = Database.of(engine)
        self._isolation_level = isolation_level
        self._resolvable = resolvable
        self._held: Transaction | None = None  # before its first use
        self._callbacks: Callbacks | None = None
        self.defer_callbacks = False
        self._scope: Scope

    def __repr__(self) -> str:
        return f"<UnitOfWork {self.number} {self.state} statements={self.statements}>"

    # -- the block ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            UnitOfWorkStateError: The unit was entered before, or its task has one open.
            ManagerClosedError: The plugin is stopping or stopped.
            WrongEventLoopError: The engine belongs to another event loop.
        """
        if self.state is not UnitState.NEW:
            raise UnitOfWorkStateError(
                self.state, "it cannot be entered again", "make a new one for each block"
            )
        task, database = asyncio.current_task(), self._database
        if task is None:
            raise UnitOfWorkTaskError("none", "none")
        database.enter(self, task)
        self.owner = self.task = task
        self.state = UnitState.ACTIVE
        self.began_at = time.perf_counter()
        self.correlation = replace(current_correlation(), unit=self.number)
        self._scope = set_correlation(self.correlation)
        if database.began.handlers:
            report_begin(self, database)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the transaction, give the connection back, tell everyone, run the callbacks.

        Raises:
            TransactionAbortedError: A statement had failed and the block swallowed it.
            CommitOutcomeUnknownError: COMMIT was sent and no answer came in time.
            DBAPIError: COMMIT was refused, by a deferred constraint for example.
            UnitOfWorkTaskError: Another task leaves the block, or still runs a statement.
            CancelledError: The task was cancelled while the unit ended; `state` tells how.
        """
        if self.state is UnitState.ACTIVE:
            await self._end(exc)
        elif exc is None and self.cause != "explicit" and self.error is not None:
            raise self.error  # it was given up while nobody was in the block

    async def rollback(self) -> None:
        """Undo everything and end the unit now; the rest of the block cannot use it any more."""
        self.check()
        self.cause = "explicit"
        await self._end(None)

    # -- the lanes ------------------------------------------------------------------------

    @property
    def session(self) -> UnitSession:
        """The ORM session of this unit.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        transaction = self._transaction
        if transaction.session is None:
            transaction.session = UnitSession(self)
        return transaction.session

    @property
    def connection(self) -> UnitConnection:
        """SQLAlchemy Core in the same transaction.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        transaction = self._transaction
        if transaction.core is None:
            transaction.core = UnitConnection(self._database.engine, self)
        return transaction.core

    async def driver(self) -> Any:
        """Return the driver's own connection, inside the same transaction, for hot paths.

        Pending objects of the session are written only by `await uow.session.flush()`.

        Returns:
            asyncpg's `Connection`, psycopg's `AsyncConnection`, aiosqlite's or asyncmy's.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self.statement = "of the driver"
        return await self.runner.run(self._transaction.drive)

    # -- parts and consequences -----------------------------------------------------------

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[Self]:
        """Make a part of the unit that can fail alone.

            async with uow.savepoint():
                await uow.session.execute(...)

        An error that leaves the part undoes the part, drops the callbacks registered in it, and
        goes on to the block, which may catch it.

        Yields:
            The unit.

        Raises:
            TransactionAbortedError: A statement of the part failed and the part swallowed it.
            UnitOfWorkStateError: The unit is `read_only=True`: it has no transaction.
        """
        failed = self.failed
        nested = await self.session.begin_nested()
        try:
            yield self
            if self.failed is not failed:
                raise TransactionAbortedError from self.failed  # noqa: TRY301 -- undone below
            await nested.commit()
        except BaseException as error:
            try:
                if self.session.get_nested_transaction() is nested:  # else it ended in its commit
                    await nested.rollback()
            except Exception as wrong:  # noqa: BLE001 -- the part's own error is what matters
                error.add_note(f"the rollback to the savepoint failed: {tell(wrong)}")
            raise

    def after_commit(self, callback: Callback) -> None:
        """Call *callback* once the unit is committed and its connection is back.

        It may be sync or async, and may open a unit of its own. What it raises is reported as
        `uow.callback_failed` and changes nothing; `SystemExit` and `KeyboardInterrupt` are raised
        when all of them have run.

        Args:
            callback: Takes no arguments.
        """
        self.check()
        self._registered().after_commit.append(callback)

    def after_rollback(self, callback: Callback) -> None:
        """Call *callback* once the unit is rolled back and its connection is back.

        Args:
            callback: Takes no arguments; sync or async.
        """
        self.check()
        self._registered().after_rollback.append(callback)

    def _registered(self) -> Callbacks:
        if self._callbacks is None:
            self._callbacks = Callbacks()
        return self._callbacks

    # -- for the lanes and the database ---------------------------------------------------

    @property
    def _transaction(self) -> Transaction:
        """What it has of the database, made at the first use: an empty unit needs none."""
        if self._held is None:
            resolvable = self._resolvable
            self._held = Transaction(
                self,
                self._database,
                isolation_level=self._isolation_level,
                resolvable=self._database.settings.resolvable if resolvable is None else resolvable,
            )
        return self._held

    @property
    def engine(self) -> AsyncEngine:
        """The engine of its database."""
        return self._database.engine

    @property
    def runner(self) -> Runner:
        """Runs SQLAlchemy's synchronous core."""
        return self._database.runner

    def connect(self) -> Connection:
        """Return the connection, checked out now when it is the first use; in a greenlet."""
        return self._transaction.connect()

    def savepoint_made(self, savepoint: object) -> None:
        """Remember what was before *savepoint*."""
        transaction = self._transaction
        if transaction.savepoints is None:
            transaction.savepoints = {}
        transaction.savepoints[savepoint] = (self._registered().mark(), self.failed)

    def savepoint_undone(self, savepoint: object) -> None:
        """Forget what was since *savepoint*: its callbacks, and what failed."""
        known = self._transaction.savepoints or {}
        if self.state is UnitState.ACTIVE and savepoint in known:
            mark, self.failed = known.pop(savepoint)
            self._registered().drop_since(mark)

    # -- the end --------------------------------------------------------------------------

    def abandon(self) -> None:
        """Roll back without a word: the task that entered the unit is over and did not leave it."""
        error = UnitOfWorkStateError(
            self.state,
            f"task {self.owner_name!r} ended without leaving its unit",
            "enter units by `async with` only",
        )
        self.error = error
        self._transaction.give_up()
        self._tell(error)
        end_correlation(self._scope)
        warnings.warn(str(error), ResourceWarning, stacklevel=2)  # last: it may be an error

    async def _end(self, exc: BaseException | None) -> None:
        """End the unit; *exc* is what left the block, and reaches the caller by itself."""
        transaction = self._held
        if exc is None:
            self._look_at_task()
            if transaction is not None and self.error is None and transaction.has_to_connect:
                await self._connect_for_flush(transaction)
        self._decide(exc)
        interrupted: BaseException | None = None
        if transaction is None or transaction.untouched:
            self.state = UnitState.ROLLED_BACK if self.cause else UnitState.COMMITTED
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
        """Wait for a connection as a statement does: with its own limit, and cancellable."""
        try:
            await self.runner.run(transaction.connect)
        except BaseException as wrong:  # noqa: BLE001 -- raised when the unit has ended
            self.error = wrong

    def _decide(self, exc: BaseException | None) -> None:
        """Roll back for what left the block, or keeps the unit from being committed."""
        error = self.error if exc is None else exc
        if error is not None and not self.cause:
            self.cause = self._cause_of(error)

    def _cause_of(self, error: BaseException) -> Cause:
        if isinstance(error, asyncio.CancelledError):
            return "cancelled"
        if isinstance(error, self._database.settings.control_flow):
            return "control_flow"
        return "error"

    async def _finish(self, transaction: Transaction) -> asyncio.CancelledError | None:
        """End the transaction, deaf to cancellations; return the one that came meanwhile."""
        patience = self._database.settings.exit_timeout
        transaction.late_at = time.perf_counter() + patience
        return await self._database.runner.finish(transaction, patience)

    def _tell(self, exc: BaseException | None) -> None:
        """Publish how it ended, now that nothing is held any more."""
        database, transaction = self._database, self._held
        database.open.leave(self.owner)
        report_end(self, database, self.error if exc is None else exc)
        if transaction is not None and transaction.listener_error is not None:
            late = transaction.listener_error
            report_failure("a listener of SQLAlchemy's", self.number, database.bus, late)

    async def run_callbacks(self) -> BaseException | None:
        """Run the callbacks of the outcome, each under the deadline of an exit.

        Returns:
            What is to be raised after them; see `callbacks.run_callbacks`.
        """
        if self._callbacks is None or self.state is UnitState.OUTCOME_UNKNOWN:
            return None
        registered, database = self._callbacks, self._database
        committed = self.state is UnitState.COMMITTED
        return await run_callbacks(
            registered.after_commit if committed else registered.after_rollback,
            self.number,
            database.bus,
            database.settings.exit_timeout,
        )

    def _raise(self, exc: BaseException | None, interrupted: BaseException | None) -> None:
        """Raise what the caller has to know, when *exc* is not what reaches it by itself.

        `SystemExit` and `KeyboardInterrupt` of a callback come first, because they end more than
        this unit; then the block's own error, then ours, then the cancellation.
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
