"""The unit of work: one transaction, one task, one truth about how it ended."""

import asyncio
import itertools
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
from db_manager.database import Database, ReadOnly
from db_manager.deaf import Deaf
from db_manager.errors import (
    TransactionAbortedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import Cause
from db_manager.greenlets import Greenlets, Spawned, Worker
from db_manager.protect import is_left, protect
from db_manager.reports import describe, report_begin, report_end
from db_manager.session import UnitSession
from db_manager.state import UnitState
from db_manager.transaction import Transaction
from lifecycle.correlation import Scope, current_correlation, end_correlation, set_correlation
from lifecycle.error_text import tell

_numbers = itertools.count(1)


class UnitOfWork:
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
        "__weakref__",
        "_callbacks",
        "_database",
        "_late_at",
        "_owner",
        "_scope",
        "_task",
        "_transaction",
        "attempt",
        "began_at",
        "correlation",
        "database_time",
        "defer_callbacks",
        "number",
        "read_only",
        "sent_at",
        "statement",
        "statements",
        "waited",
        "warned",
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
        self._database = database = Database.of(engine)
        self._transaction = Transaction(
            self,
            database,
            isolation_level=isolation_level,
            resolvable=database.settings.resolvable if resolvable is None else resolvable,
        )
        self._callbacks: Callbacks | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[Any] | None = None  # the owner; at the end the task that ends it
        self._scope: Scope
        self.number = next(_numbers)
        self.read_only: ReadOnly = read_only
        self.attempt = 1
        self.correlation = current_correlation()
        self.statements = 0
        self.statement: object = ""  # the last one; turned into text only when somebody asks
        self.database_time = self.sent_at = self.began_at = self.waited = self._late_at = 0.0
        self.warned = self.defer_callbacks = False

    def __repr__(self) -> str:
        return f"<UnitOfWork {self.number} {self.state} statements={self.statements}>"

    @property
    def state(self) -> UnitState:
        """Where the unit is in its life; `committed` only if the server said so."""
        return self._transaction.state

    # -- the block ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            UnitOfWorkStateError: The unit was entered before, or its task has one open.
            ManagerClosedError: The plugin is stopping or stopped.
            WrongEventLoopError: The engine belongs to another event loop.
        """
        if self._transaction.state is not UnitState.NEW:
            raise UnitOfWorkStateError(
                self.state, "it cannot be entered again", "make a new one for each block"
            )
        task, database = asyncio.current_task(), self._database
        if task is None:
            raise UnitOfWorkTaskError("none", "none")
        database.enter(self, task)
        self._owner = self._task = task
        self._transaction.state = UnitState.ACTIVE
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
        transaction = self._transaction
        if transaction.state is UnitState.ACTIVE:
            await self._end(exc)
        elif exc is None and transaction.cause != "explicit" and transaction.error is not None:
            raise transaction.error  # it was given up while nobody was in the block

    async def rollback(self) -> None:
        """Undo everything and end the unit now; the rest of the block cannot use it any more."""
        self.check()
        self._transaction.cause = "explicit"
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
        return await self.greenlets.run(self._transaction.drive)

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
        transaction = self._transaction
        failed = transaction.failed
        nested = await self.session.begin_nested()
        try:
            yield self
            if transaction.failed is not failed:
                raise TransactionAbortedError from transaction.failed  # noqa: TRY301 -- undone below
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

    def check(self) -> None:
        """Raise unless the unit is active and the running task owns it.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        if self._transaction.state is not UnitState.ACTIVE:
            raise UnitOfWorkStateError(
                self.state, "it cannot be used now", "use it inside its `async with` block"
            )
        if asyncio.current_task() is not self._task:
            raise UnitOfWorkTaskError(self.owner_name, _name(asyncio.current_task()))

    @property
    def engine(self) -> AsyncEngine:
        """The engine of its database."""
        return self._database.engine

    @property
    def greenlets(self) -> Greenlets:
        """Where SQLAlchemy's synchronous core runs."""
        return self._database.greenlets

    @property
    def checked_out(self) -> Connection | None:
        """The connection of the unit, when it has one."""
        return self._transaction.connection

    def connect(self) -> Connection:
        """Return the connection, checked out now when it is the first use; in a greenlet."""
        return self._transaction.connect()

    @property
    def owner_name(self) -> str:
        """Name of the task that entered the unit."""
        return _name(self._owner)

    @property
    def is_late(self) -> bool:
        """True when its end took longer than `exit_timeout`."""
        return time.perf_counter() >= self._late_at

    def statement_failed(self, error: BaseException) -> None:
        """Count a failed statement, and remember it in case the block swallows its error."""
        self.statements += 1
        self._transaction.mark_failed(error)

    def savepoint_made(self, savepoint: object) -> None:
        """Remember what was before *savepoint*."""
        transaction = self._transaction
        if transaction.savepoints is None:
            transaction.savepoints = {}
        transaction.savepoints[savepoint] = (self._registered().mark(), transaction.failed)

    def savepoint_undone(self, savepoint: object) -> None:
        """Forget what was since *savepoint*: its callbacks, and what failed."""
        transaction = self._transaction
        known = transaction.savepoints or {}
        if self.state is UnitState.ACTIVE and savepoint in known:
            mark, transaction.failed = known.pop(savepoint)
            self._registered().drop_since(mark)

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the database's language."""
        return self._database.engine.dialect.name

    def describe(self) -> str:
        """Return who this unit is, for people: plugin, handler, update, age, last statement."""
        return describe(self)

    # -- the end --------------------------------------------------------------------------

    def abandon(self) -> None:
        """Roll back without a word: the task that entered the unit is over and did not leave it."""
        error = UnitOfWorkStateError(
            self.state,
            f"task {self.owner_name!r} ended without leaving its unit",
            "enter units by `async with` only",
        )
        transaction = self._transaction
        transaction.error = error
        transaction.give_up()
        self._database.leave(self._owner)
        self._tell(error)
        end_correlation(self._scope)
        warnings.warn(str(error), ResourceWarning, stacklevel=2)  # last: it may be an error

    async def _end(self, exc: BaseException | None) -> None:
        """End the unit; *exc* is what left the block, and reaches the caller by itself."""
        transaction, task = self._transaction, asyncio.current_task()
        if exc is None and task is not self._owner:
            transaction.error = UnitOfWorkTaskError(self.owner_name, _name(task))
        if exc is None and transaction.error is None and transaction.has_to_connect:
            # The wait for a connection is a statement's: with its own limit, and cancellable.
            try:
                await self.greenlets.run(transaction.connect)
            except BaseException as wrong:  # noqa: BLE001 -- raised when the unit has ended
                transaction.error = wrong
        error = transaction.error if exc is None else exc
        if error is not None and not transaction.cause:
            transaction.cause = self._cause_of(error)
        interrupted: BaseException | None = None
        if transaction.untouched:
            transaction.state = UnitState.ROLLED_BACK if transaction.cause else UnitState.COMMITTED
        else:
            interrupted = await self._finish()
        self._database.leave(self._owner)
        self._tell(transaction.error if exc is None else exc)
        if self._callbacks is not None and not self.defer_callbacks:
            interrupted = await self.run_callbacks() or interrupted
        end_correlation(self._scope)
        self._raise(exc, interrupted)

    def _tell(self, error: BaseException | None) -> None:
        """Publish how the unit ended, and what a listener raised on the way."""
        transaction, database = self._transaction, self._database
        report_end(self, transaction, database, error)
        if transaction.listener_error is not None:
            late = transaction.listener_error
            report_failure("a listener of SQLAlchemy's", self.number, database.bus, late)

    def _raise(self, exc: BaseException | None, interrupted: BaseException | None) -> None:
        """Raise what the caller has to know, when *exc* is not what reaches it by itself."""
        transaction = self._transaction
        if exc is not None:
            self._note(exc)
        if isinstance(interrupted, (SystemExit, KeyboardInterrupt)):
            raise interrupted  # of a callback: it ends more than this unit
        error = interrupted if transaction.error is None else transaction.error
        if exc is None and error is not None:
            raise error

    def _note(self, exc: BaseException) -> None:
        wrong, ended = self._transaction.rollback_error, self._transaction.ended
        if wrong is not None:
            exc.add_note(f"the rollback failed as well: {tell(wrong)}")
        if ended is not None:
            exc.add_note(str(ended))

    async def _finish(self) -> asyncio.CancelledError | None:
        """End the transaction, deaf to cancellations; return the one that came meanwhile."""
        transaction, interrupted, expired = self._transaction, None, False
        patience = self._database.settings.exit_timeout
        self._late_at = time.perf_counter() + patience
        worker = self.greenlets.take()
        awaited = worker.begin(transaction.finish)
        if worker.busy and transaction.state is UnitState.COMMITTING and self._database.in_place:
            deaf = Deaf()
            deadline = self._database.deadlines.call_later(patience, deaf.expire)
            awaited = await worker.advance(awaited, deaf.wait)
            deadline.cancel()
            interrupted, expired = deaf.interrupted, deaf.expired
        if worker.busy:  # the server has to answer more than this
            ending = self._finish_alone(worker, awaited)
            interrupted = (
                await protect(
                    ending,
                    max(0.0, self._late_at - time.perf_counter()),
                    give_up=transaction.give_up,
                    cancelled=expired,
                )
                or interrupted
            )
            if is_left(ending):
                return interrupted  # the greenlet goes with it
        if worker.busy:  # the loop closes and cancelled it before it began
            await worker.cancel(awaited)
        self.greenlets.give_back(worker)
        return interrupted

    async def _finish_alone(self, worker: Worker | Spawned, awaited: Any) -> None:
        self._task = asyncio.current_task()  # the session may flush, which asks who owns it
        await worker.finish(awaited)

    def _cause_of(self, error: BaseException) -> Cause:
        if isinstance(error, asyncio.CancelledError):
            return "cancelled"
        if isinstance(error, self._database.settings.control_flow):
            return "control_flow"
        return "error"

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


def _name(task: asyncio.Task[Any] | None) -> str:
    return task.get_name() if task is not None else "none"
