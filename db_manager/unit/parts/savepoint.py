"""Savepoints: a part of a unit that can fail without the rest."""

from types import TracebackType
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSessionTransaction
from sqlalchemy.orm import SessionTransaction

from db_manager.database.callbacks import Callbacks, Mark
from db_manager.database.open_unit import ACTIVE, OpenUnit
from db_manager.errors import UnitOfWorkStateError
from db_manager.lanes.lane import Unit
from lifecycle.error_text import tell

U = TypeVar("U", bound=Unit)

#: What is wrong with a block whose work may be gone, and its fix.
_ENDED_BEFORE: Final = (
    "the savepoint of this block, or one around it, has ended before the block",
    "end savepoints in the order of their blocks",
)


class Inside(Protocol):
    """A unit that was entered in a savepoint of another one."""

    def undone_around(self) -> None:
        """Be told that a savepoint around it was rolled back."""


class _Before(NamedTuple):
    """What a unit goes back to: its callbacks, the units inside of it, its failure."""

    callbacks: Mark
    inside: int
    failed: BaseException | None


class Savepoints:
    """The state that a unit restores when one of its savepoints is rolled back.

    Args:
        unit: The unit.
        callbacks: Its callbacks.
    """

    __slots__ = ("_before", "_callbacks", "_inside", "_unit", "went_back")

    def __init__(self, unit: OpenUnit, callbacks: Callbacks) -> None:
        self._unit = unit
        self._callbacks = callbacks
        self._before: dict[SessionTransaction, _Before] = {}
        #: The units that were entered inside of the savepoints that are open.
        self._inside: list[Inside] = []
        #: Whether ROLLBACK TO SAVEPOINT was answered since a savepoint was made or rolled back.
        self.went_back = False

    def made(self, savepoint: SessionTransaction) -> None:
        """Save the callbacks and the failure before *savepoint*; forget those that were kept."""
        open_ones = {each: self._before[each] for each in chain(savepoint) if each in self._before}
        if not open_ones:
            self._inside.clear()
        before = _Before(self._callbacks.mark(), len(self._inside), self._unit.failed)
        self._before = {**open_ones, savepoint: before}
        self.went_back = False

    def entered(self, unit: Inside) -> None:
        """Note that *unit* was entered inside of the savepoints that are open."""
        self._inside.append(unit)

    def undone(self, savepoint: SessionTransaction) -> None:
        """Restore the callbacks and the failure from before *savepoint*."""
        if self._unit.state is not ACTIVE or savepoint not in self._before:
            return
        before = self._before.pop(savepoint)
        if not (self.went_back or self._is_lost()):
            # SQLAlchemy does not go back to a savepoint that it could not release.
            wrong = "a savepoint could be neither released nor rolled back"
            fix = "let the error out of the block"
            self._unit.mark_failed(UnitOfWorkStateError(self._unit.state, wrong, fix))
            return
        self.went_back = False
        self._unit.failed = before.failed
        undone = self._inside[before.inside :]
        del self._inside[before.inside :]
        self._callbacks.undo_since(before.callbacks, undone)
        for unit in undone:
            unit.undone_around()

    def _is_lost(self) -> bool:
        """Return True when the connection is lost, and everything with it."""
        connection = self._unit.checked_out
        return connection is None or connection.invalidated


class Part(Generic[U]):
    """A block in a savepoint of *unit*; an error that leaves it rolls it back and propagates.

    Args:
        unit: The unit.
    """

    __slots__ = ("_failed", "_savepoint", "_unit", "is_undermined", "undone")

    def __init__(self, unit: U) -> None:
        self._unit = unit
        self._failed: BaseException | None = None
        self._savepoint: AsyncSessionTransaction
        #: Whether a savepoint around it was rolled back; its own is gone with that.
        self.is_undermined = False
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
            UnitOfWorkStateError: Its savepoint has ended before it.
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
            UnitOfWorkStateError: It has ended before.
        """
        whole = self._unit.whole
        if whole.failed is not self._failed:
            raise whole.swallowed()
        if not self.is_open():
            raise UnitOfWorkStateError(whole.state, *_ENDED_BEFORE)
        await self._savepoint.commit()

    async def undo(self) -> None:
        """Roll back to the savepoint; those that were begun in it are gone with it."""
        if self.is_open():
            await self._savepoint.rollback()
            self.undone = self._unit.whole.failed is self._failed

    def is_open(self) -> bool:
        """Return False when it was released or rolled back, or one around it was."""
        return self._savepoint.sync_transaction in chain(self._innermost())

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


class Joined:
    """A block without a savepoint of its own: what it did cannot be undone alone.

    Args:
        unit: The whole unit.
    """

    __slots__ = ("_around", "_unit", "is_undermined", "undone")

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._around: SessionTransaction | None = None
        #: Whether a savepoint around it was rolled back, and what it had done with that.
        self.is_undermined = False
        self.undone = False

    async def begin(self) -> None:
        """Note the savepoint in which it begins."""
        self._around = self._unit.session.sync_session.get_nested_transaction()

    async def keep(self) -> None:
        """Let what was done be a part of what is around it, also in savepoints that are left open.

        Raises:
            TransactionAbortedError: A statement failed and its error was swallowed.
            UnitOfWorkStateError: A savepoint around it was rolled back.
        """
        unit = self._unit
        if unit.failed is not None:
            raise unit.swallowed()
        if self.is_undermined:
            raise UnitOfWorkStateError(unit.state, *_ENDED_BEFORE)
        open_ones = chain(unit.session.sync_session.get_nested_transaction())
        if self._around is None or self._around in open_ones:
            mine = [each for each in open_ones if each.nested and each not in chain(self._around)]
            if mine:
                await unit.runner.run(mine[-1].commit)  # and those in it

    async def undo_for(self, error: BaseException) -> None:
        """Undo nothing: there is no way back."""


class Reading(Joined):
    """A block in a unit without a transaction, where each statement stands for itself.

    Args:
        unit: The whole unit.
        callbacks: Its callbacks.
    """

    __slots__ = ("_callbacks", "_mark")

    def __init__(self, unit: Unit, callbacks: Callbacks) -> None:
        super().__init__(unit)
        self._callbacks = callbacks
        self._mark = callbacks.mark()

    async def undo_for(self, error: BaseException) -> None:
        """Drop its callbacks and its failure: there is nothing else to undo."""
        del error
        inside = {unit for _, unit in self._callbacks.after_rollback if unit is not self._unit}
        self._callbacks.undo_since(self._mark, inside)
        self._unit.failed = None
        self.undone = True


def chain(innermost: SessionTransaction | None) -> list[SessionTransaction]:
    """Return *innermost* and what is around it, from the inside to the outside."""
    found = []
    while innermost is not None:
        found.append(innermost)
        innermost = innermost.parent
    return found
