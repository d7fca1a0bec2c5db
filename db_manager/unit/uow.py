"""The unit of work: one transaction in one task, with a reliable outcome."""

import asyncio
import sys
import time
import warnings
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.callbacks import report_failure
from db_manager.database.database import NO_OPTIONS, Database
from db_manager.database.open_unit import ACTIVE, COMMITTED, NEW, Nested, ReadOnly, UnitState
from db_manager.database.places import STACK
from db_manager.errors import UnitOfWorkStateError, UnitOfWorkTaskError
from db_manager.lanes.core import UnitConnection
from db_manager.lanes.session import UnitSession
from db_manager.unit.nested import MODES, Nesting
from db_manager.unit.publish import report_begin, report_end
from db_manager.unit.transaction import Transaction
from lifecycle.correlation import Scope, current_correlation, end_correlation, set_correlation


class UnitOfWork(Nesting):
    """One transaction: committed at the end of its block, rolled back when the block raises.

        async with UnitOfWork(engine) as uow:
            await uow.session.execute(...)

    Nothing is sent to the database before the first statement: an empty unit costs no round trip.
    One task enters it, uses it and leaves it.

    Args:
        engine: The engine, `db_manager:engine` or one of your own.
        read_only: True for statements that only read, without a common transaction; `"snapshot"`
            if they must see the same state; `"replica"` if it may be old. Writes are refused.
        isolation_level: SQLAlchemy's name of the isolation level, for this unit only.
        resolvable: Keep the transaction's id for `resolve`; None means the engine's setting.
        nested: Inside of an open unit of the task: `"refuse"`, `"join"` its transaction, or be a
            `"savepoint"` of it; None means the engine's setting.

    Raises:
        ValueError: *isolation_level* is AUTOCOMMIT, or *read_only* or *nested* is something else.
    """

    __slots__ = ("_scope",)

    def __init__(
        self,
        engine: AsyncEngine | Database,
        *,
        read_only: ReadOnly = False,
        isolation_level: str | None = None,
        resolvable: bool | None = None,
        nested: Nested | None = None,
    ) -> None:
        if nested is not None and nested not in MODES:
            raise ValueError(f"nested is {nested!r}; it is one of {MODES}")
        if isolation_level is not None and isolation_level.upper() == "AUTOCOMMIT":
            raise ValueError(
                "a unit of work cannot be AUTOCOMMIT: there would be nothing to roll back; "
                "use `engine.connect()`, or read_only=True for statements that only read"
            )
        super().__init__(read_only)
        if isinstance(engine, Database):
            self._database, self._options = engine, NO_OPTIONS
        else:
            self._database = Database.of(engine)
            self._options = self._database.options_of(engine)
        self._isolation_level = isolation_level
        self._resolvable = resolvable
        self._nested = nested
        self._held = None  # before its first use
        self.block = self.inner = None
        self._callbacks = self._savepoints = None
        self.defer_callbacks = self.detached = False
        self._scope: Scope

    def __repr__(self) -> str:
        return f"<UnitOfWork {self.number} {self.state} statements={self.statements}>"

    # -- the block ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            UnitOfWorkStateError: The unit was entered before, or the task has another one open that
                it is not a part of.
            UnitOfWorkTaskError: No task is running.
            TransactionAbortedError: A statement of the unit that it is a part of has failed.
            ManagerClosedError: The plugin is stopping or stopped.
            WrongEventLoopError: The engine belongs to another event loop.
        """
        if self.state is not NEW:
            raise UnitOfWorkStateError(
                self.state, "it cannot be entered again", "make a new one for each block"
            )
        task, database = asyncio.current_task(), self._database
        if task is None:
            raise UnitOfWorkTaskError("none", "none")
        frame = sys._getframe(1)  # noqa: SLF001 -- inspect has it only with more around it
        if frame.f_code is STACK:
            frame = frame.f_back or frame
        self.entered_by, self.entered_at = frame.f_code, frame.f_lasti
        whole = database.enter(self, task)
        self.runner = database.runner
        self.owner = self.task = task
        if whole is not None:
            return await self.join(whole)
        self.state = ACTIVE
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
        """End the transaction, return the connection, publish the outcome, run the callbacks.

        Raises:
            TransactionAbortedError: A statement failed and the block swallowed its error.
            TransactionEndedError: The transaction ended before the unit ended it.
            EndTimeoutError: The last flush exceeded `exit_timeout`; COMMIT was not sent.
            CommitOutcomeUnknownError: COMMIT was sent and no answer came in time.
            DBAPIError: COMMIT was refused, for example because of a deferred constraint.
            UnitOfWorkTaskError: Another task leaves the block, or still runs a statement.
            CancelledError: The task was cancelled while the unit ended; `state` has the outcome.
        """
        if self.block is not None:
            await self.block.leave(exc)
            return
        if exc is None and (self._callbacks is not None or self._database.delivery is not None):
            await self.call_before_commit()
        if self.state is ACTIVE:
            await self.end(exc)
        elif exc is None and self.cause != "explicit" and self.error is not None:
            raise self.error  # it was abandoned before the block was left

    # -- the lanes ------------------------------------------------------------------------

    @property
    def session(self) -> UnitSession:
        """The ORM session of this unit.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        transaction = self.hold()
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
        transaction = self.hold()
        if transaction.core is None:
            transaction.core = UnitConnection(self._database.engine, self)
        return transaction.core

    async def driver(self) -> Any:
        """Return the driver's own connection, inside the same transaction, for hot paths.

        It does not flush the session: call `await uow.session.flush()` to write pending objects.

        Returns:
            asyncpg's `Connection`, psycopg's `AsyncConnection`, aiosqlite's or asyncmy's.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self.statement = "of the driver"
        return await self.runner.run(self.hold().drive)

    def hold(self) -> Transaction:
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
        return self.hold().connect()

    # -- the end --------------------------------------------------------------------------

    def abandon(self) -> None:
        """Drop the connection: the task that entered the unit has ended without leaving it."""
        error = UnitOfWorkStateError(
            self.state,
            f"task {self.owner_name!r} ended without leaving its unit",
            "enter units only with `async with`",
        )
        self.error = error
        self.end_inner(error)
        self.hold().give_up()
        self._tell(error)
        end_correlation(self._scope)
        warnings.warn(str(error), ResourceWarning, stacklevel=2)  # last: it may raise

    async def end(self, exc: BaseException | None) -> None:
        """End the unit; *exc* is the error that left the block, which Python raises again."""
        transaction = self._held
        if self.inner is not None:
            self.end_inner(exc)
        if exc is None:
            if asyncio.current_task() is not self.owner:
                self.error = self.error_of_task()
            if transaction is not None and self._must_connect(transaction):
                await self._connect_for_flush(transaction)
        self._decide(exc)
        interrupted: BaseException | None = None
        used = self.checked_out is not None or self.failed is not None
        if transaction is None or (transaction.session is None and not used):
            self.state = UnitState.ROLLED_BACK if self.cause else COMMITTED
        else:
            interrupted = await self._finish(transaction)
        if exc is not None:
            self.note_on(exc)
        self._tell(exc)
        if self._callbacks is not None:
            interrupted = await self.after_end() or interrupted
        end_correlation(self._scope)
        # These concern more than the unit. Then come the block's own error, which Python raises,
        # ours, and the cancellation.
        if isinstance(interrupted, (SystemExit, KeyboardInterrupt)):
            raise interrupted
        error = interrupted if self.error is None else self.error
        if exc is None and error is not None:
            raise error

    def is_decided(self) -> bool:
        """Return True if the unit will be rolled back, whatever is called before."""
        return bool(self.error or self.failed or self.cause or self.inner)

    def _must_connect(self, transaction: Transaction) -> bool:
        """Return True if the last flush has changes to write, and there is no connection yet."""
        return not (self.checked_out or self.is_decided()) and transaction.has_changes()

    async def _connect_for_flush(self, transaction: Transaction) -> None:
        """Wait for a connection as a statement does: up to `pool_timeout`, and cancellable."""
        try:
            await self.runner.run(transaction.check_out)
        except BaseException as wrong:  # noqa: BLE001 -- raised when the unit has ended
            self.error = wrong

    def _decide(self, exc: BaseException | None) -> None:
        """Set the cause of a rollback, if an error left the block or prevents the commit."""
        error = self.error if exc is None else exc
        if error is not None and not self.cause:
            self.cause = self._database.settings.cause_of(error)

    def _finish(self, transaction: Transaction) -> Awaitable[asyncio.CancelledError | None]:
        """End the transaction, shielded; return a cancellation that arrived meanwhile."""
        patience = self._database.settings.exit_timeout
        return self.runner.finish(transaction, patience)

    def _tell(self, exc: BaseException | None) -> None:
        """Publish how the unit ended, after everything was released."""
        database, transaction = self._database, self._held
        database.leave(self)
        if database.hears_ends:
            report_end(self, database, self.error if exc is None else exc)
        if transaction is not None and (late := transaction.listener_error) is not None:
            what = "a listener of SQLAlchemy's"
            report_failure(what, self.number, database.bus, late, database=database.name)
