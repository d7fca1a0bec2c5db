"""Savepoints and callbacks of a unit."""

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import SessionTransaction

from db_manager.database.callbacks import Callback, Callbacks, run_callbacks
from db_manager.database.open_unit import ACTIVE, COMMITTED, UnitState
from db_manager.sending import DeliveryOffError, Sending
from db_manager.unit.announcements import Announcements
from db_manager.unit.parts.legacy import LegacyBlock
from db_manager.unit.parts.savepoint import Inside, Part, Savepoints


class Consequences(Announcements):
    """The savepoints and callbacks of a unit; most units have neither."""

    __slots__ = ("_callbacks", "_savepoints", "defer_callbacks", "detached")

    _callbacks: Callbacks | None
    _savepoints: Savepoints | None
    #: Whether whoever runs the unit runs its callbacks later.
    defer_callbacks: bool
    #: Whether it says nothing about the update that is being handled.
    detached: bool

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
            UnitOfWorkStateError: The unit was opened with `read_only=True` or `"replica"`: it has
                no transaction.
        """
        return Part(self)

    def legacy_session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Give code that commits by itself the session of this unit, until it is moved.

            async with uow.legacy_session() as session:
                await Repository(session).add(...)

        It is `uow.session` with other ends: `commit()` writes what is pending, and the unit
        commits it with all the rest; `rollback()` and `close()` go back to the last `commit()`, or
        to the begin of the block; `begin()` is a block that ends with `commit()` or `rollback()`.
        What is not committed at the end of the block is committed by the unit; an error that
        leaves the block undoes it. Each place that commits, begins or rolls back, or leaves
        something uncommitted, is told once, in the log and as `LegacySessionWarning`.

        Returns:
            A context manager, which returns the session.

        Raises:
            TransactionAbortedError: A statement failed and its error was swallowed.
            UnitOfWorkStateError: The unit was opened with `read_only=True`: it has no transaction.
        """
        return LegacyBlock(self)

    def before_commit(self, callback: Callback) -> None:
        """Call *callback* at the end of the block, as the last part of it: in the transaction.

        It runs in the unit's task, in the order of registration, and may use every lane, register
        more, and roll back. It is not called when the unit is rolled back already. What it raises
        rolls the unit back and is raised by the block. Inside of another unit it is called at the
        end of that one, whose transaction this is.

        Added in 0.2.

        Args:
            callback: A sync or async function without arguments.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self.registered().before_commit.append(callback)

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
        self.registered().after_commit.append(callback)

    def after_rollback(self, callback: Callback) -> None:
        """Call *callback* after the unit is rolled back and its connection is back in the pool.

        Args:
            callback: A sync or async function without arguments.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        self.registered().after_rollback.append((callback, self))

    def registered(self) -> Callbacks:
        """Return its callbacks, made at the first use: most units have none."""
        if self._callbacks is None:
            self._callbacks = Callbacks()
        return self._callbacks

    async def call_before_commit(self) -> None:
        """Call what `before_commit` was given; an error becomes that of the unit.

        The messages come last: others wait for the lock of their chats.
        """
        delivery = self._database.delivery
        if self._callbacks is None and (delivery is None or not delivery.wants(self)):
            return
        registered = self.registered()
        try:
            for callback in registered.before_commit:  # also what is registered meanwhile
                if self.is_decided() or asyncio.current_task() is not self.owner:
                    break
                called = callback()
                if inspect.isawaitable(called):
                    await called
            ours = self.state is ACTIVE and asyncio.current_task() is self.owner
            if ours and not self.is_decided():
                await self._deliver(registered.sendings)
        except BaseException as wrong:
            if self.state is not ACTIVE:  # it has rolled back by hand
                raise
            self.error = wrong

    async def _deliver(self, sendings: Sequence[Sending]) -> None:
        delivery = self._database.delivery
        if not sendings and (delivery is None or not delivery.wants(self)):
            return
        if delivery is None:  # the plugin was unloaded meanwhile
            raise DeliveryOffError
        pending: Any = self.session.sync_session
        if pending.has_changes():
            await self.session.flush()  # nothing of the unit comes after what waits for chats
        if sendings or self.checked_out is not None:
            await delivery.flush(self, sendings)

    @abstractmethod
    def is_decided(self) -> bool:
        """Return True if the unit will be rolled back, whatever is called before."""

    async def after_end(self) -> BaseException | None:
        """Tell the outcome to who keeps its messages, and run the callbacks unless they wait."""
        if self._callbacks is not None:
            if self._database.delivery is not None:
                self._database.delivery.ended(self, self._callbacks.sendings)
            elif self.state is not COMMITTED:
                for sending in self._callbacks.sendings:
                    sending.settle("dropped")
        return None if self.defer_callbacks else await self.run_callbacks()

    async def run_callbacks(self) -> BaseException | None:
        """Run the callbacks for the outcome, each with `exit_timeout` as its deadline.

        Returns:
            What to raise after them; see `callbacks.run_callbacks`.
        """
        if self._callbacks is None:
            return None
        registered, database = self._callbacks, self._database
        due: list[Callback] = []
        if self.state is COMMITTED:
            due = registered.after_commit
        elif self.state is UnitState.ROLLED_BACK:
            due = [callback for callback, _ in registered.after_rollback]
        return await run_callbacks(
            [*due, *registered.anyway],
            self.number,
            database.bus,
            database.settings.exit_timeout,
            database.name,
        )

    # -- for the session ---------------------------------------------------------------

    def savepoint_made(self, savepoint: SessionTransaction) -> None:
        """Save what the unit restores if *savepoint* is rolled back."""
        if self._savepoints is None:
            self._savepoints = Savepoints(self, self.registered())
        self._savepoints.made(savepoint)

    def savepoint_undone(self, savepoint: SessionTransaction) -> None:
        """Drop callbacks and failures since *savepoint*, which was rolled back."""
        if self._savepoints is not None:
            self._savepoints.undone(savepoint)

    def has_inside(self, unit: Inside) -> None:
        """Note that *unit* was entered inside of this one: a savepoint around it may undo it."""
        if self._savepoints is not None:
            self._savepoints.entered(unit)

    def went_back(self) -> None:
        """Note that ROLLBACK TO SAVEPOINT was sent and answered."""
        if self._savepoints is not None:
            self._savepoints.went_back = True
