"""Savepoints: a part of a unit that can fail without the rest."""

from types import TracebackType
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSessionTransaction
from sqlalchemy.orm import SessionTransaction

from db_manager.database.callbacks import Callbacks
from db_manager.database.open_unit import ACTIVE, OpenUnit
from db_manager.lanes.lane import Unit
from lifecycle.error_text import tell

U = TypeVar("U", bound=Unit)


class Savepoints:
    """The state that a unit restores when one of its savepoints is rolled back.

    Args:
        unit: The unit.
        callbacks: Its callbacks.
    """

    __slots__ = ("_before", "_callbacks", "_unit")

    def __init__(self, unit: OpenUnit, callbacks: Callbacks) -> None:
        self._unit = unit
        self._callbacks = callbacks
        self._before: dict[SessionTransaction, tuple[tuple[int, int], BaseException | None]] = {}

    def made(self, savepoint: SessionTransaction) -> None:
        """Save the callbacks and the failure before *savepoint*; forget those that were kept."""
        around, known = savepoint.parent, self._before
        self._before = {savepoint: (self._callbacks.mark(), self._unit.failed)}
        while around is not None:
            if around in known:
                self._before[around] = known[around]
            around = around.parent

    def undone(self, savepoint: SessionTransaction) -> None:
        """Restore the callbacks and the failure from before *savepoint*."""
        if self._unit.state is ACTIVE and savepoint in self._before:
            mark, self._unit.failed = self._before.pop(savepoint)
            self._callbacks.drop_since(mark)


class Part(Generic[U]):
    """A block in a savepoint of *unit*; an error that leaves it rolls it back and propagates.

    Args:
        unit: The unit.
    """

    __slots__ = ("_failed", "_savepoint", "_unit", "undone")

    def __init__(self, unit: U) -> None:
        self._unit = unit
        self._failed: BaseException | None = None
        self._savepoint: AsyncSessionTransaction
        #: True once it is rolled back.
        self.undone = False

    async def __aenter__(self) -> U:
        await self.begin()
        return self._unit

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep what the block did, or undo it.

        Raises:
            TransactionAbortedError: A statement of the part failed and the part swallowed it.
        """
        if self._unit.state is not ACTIVE:  # by `rollback()`: the savepoint is gone
            return
        try:
            if exc is None:
                await self.keep()
        except BaseException as wrong:
            await self.undo_for(wrong)
            raise
        if exc is not None:
            await self.undo_for(exc)

    async def begin(self) -> None:
        """Begin the savepoint."""
        self._failed = self._unit.whole.failed
        self._savepoint = await self._unit.session.begin_nested()

    async def keep(self) -> None:
        """Release the savepoint: what was done in it is part of what is around it.

        Raises:
            TransactionAbortedError: A statement in it failed and its error was swallowed.
        """
        whole = self._unit.whole
        if whole.failed is not self._failed:
            raise whole.swallowed()
        await self._savepoint.commit()

    async def undo(self) -> None:
        """Roll back to the savepoint; those that were begun in it are gone with it."""
        if self.is_open():
            await self._savepoint.rollback()
            self.undone = True

    def is_open(self) -> bool:
        """Return False when it was released or rolled back, or one around it was."""
        mine = self._savepoint.sync_transaction
        open_one = self._innermost()
        while open_one is not None and open_one is not mine:
            open_one = open_one.parent
        return open_one is not None

    def is_innermost(self) -> bool:
        """Return True when no other savepoint was begun in it and is open."""
        return self._innermost() is self._savepoint.sync_transaction

    async def undo_for(self, error: BaseException) -> None:
        """Undo it because of *error*, which matters more than one of the rollback."""
        try:
            await self.undo()
        except BaseException as wrong:
            self._unit.whole.mark_failed(wrong)
            if not isinstance(wrong, Exception):
                raise
            error.add_note(f"the rollback to the savepoint failed: {tell(wrong)}")

    def _innermost(self) -> SessionTransaction | None:
        return self._unit.session.sync_session.get_nested_transaction()
