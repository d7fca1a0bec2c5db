"""The unit of work: one transaction in one task, with a reliable outcome."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from db_manager.database.callbacks import Callback
from db_manager.database.open_unit import ACTIVE, NEW
from db_manager.errors import (
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.lanes.core import UnitConnection
from db_manager.lanes.session import UnitSession
from db_manager.unit.ending import EndingUnit
from db_manager.unit.publish import report_begin
from db_manager.unit.savepoint import Savepoints, part
from lifecycle.correlation import current_correlation, set_correlation


class UnitOfWork(EndingUnit):
    """One transaction: committed at the end of its block, rolled back when the block raises.

        async with UnitOfWork(engine) as uow:
            await uow.session.execute(...)

    Nothing is sent to the database before the first statement: an empty unit costs no round trip.
    One task enters it, uses it and leaves it.

    Args:
        engine: The engine, `db_manager:engine` or one of your own.
        read_only: True for statements that only read, without a common transaction; `"snapshot"`
            if they must see the same state of the data. The database refuses writes.
        isolation_level: SQLAlchemy's name of the isolation level, for this unit only.
        resolvable: Keep the transaction's id for `resolve`; None means the engine's setting.

    Raises:
        ValueError: *isolation_level* is AUTOCOMMIT.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<UnitOfWork {self.number} {self.state} statements={self.statements}>"

    # -- the block ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            UnitOfWorkStateError: The unit was entered before, or the task has another one open.
            UnitOfWorkTaskError: No task is running.
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
        database.enter(self, task)
        self.runner = database.runner
        self.owner = self.task = task
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
        if self.state is ACTIVE:
            await self._end(exc)
        elif exc is None and self.cause != "explicit" and self.error is not None:
            raise self.error  # it was abandoned before the block was left

    async def rollback(self) -> None:
        """Roll back and end the unit now; the rest of the block cannot use it.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
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
        transaction = self._hold()
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
        transaction = self._hold()
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
        return await self.runner.run(self._hold().drive)

    # -- savepoints and callbacks ---------------------------------------------------------

    def savepoint(self) -> AbstractAsyncContextManager[Self]:
        """Run a part of the unit that can fail without the rest.

            async with uow.savepoint():
                await uow.session.execute(...)

        An error that leaves the part rolls it back, drops the callbacks registered in it, and
        propagates to the block, which may catch it.

        Returns:
            A context manager, which returns the unit.

        Raises:
            TransactionAbortedError: A statement failed and the part swallowed its error.
            UnitOfWorkStateError: The unit was opened with `read_only=True`: it has no transaction.
        """
        return part(self)

    def after_commit(self, callback: Callback) -> None:
        """Call *callback* after the unit is committed and its connection is back in the pool.

        It may open a new unit. Its errors are reported as `uow.callback_failed` and change
        nothing. `SystemExit` and `KeyboardInterrupt` are raised after all callbacks have run.

        Args:
            callback: A sync or async function without arguments.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self._registered().after_commit.append(callback)

    def after_rollback(self, callback: Callback) -> None:
        """Call *callback* after the unit is rolled back and its connection is back in the pool.

        Args:
            callback: A sync or async function without arguments.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self._registered().after_rollback.append(callback)

    # -- for the session ---------------------------------------------------------------

    def savepoint_made(self, savepoint: object) -> None:
        """Save what the unit restores if *savepoint* is rolled back."""
        if self._savepoints is None:
            self._savepoints = Savepoints(self, self._registered())
        self._savepoints.made(savepoint)

    def savepoint_undone(self, savepoint: object) -> None:
        """Drop callbacks and failures since *savepoint*, which was rolled back."""
        if self._savepoints is not None:
            self._savepoints.undone(savepoint)
