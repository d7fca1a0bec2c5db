"""A unit inside of a unit of the same task: a part of the transaction of the outer one."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Self, get_args

from db_manager.database.open_unit import ACTIVE, Nested, OpenUnit, ReadOnly, UnitState
from db_manager.errors import (
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
)
from db_manager.events import JoinMode, JoinOutcome
from db_manager.unit.consequences import Consequences
from db_manager.unit.parts.savepoint import Joined, Part, Reading
from db_manager.unit.publish import report_join, report_leave
from db_manager.unit.transaction import Transaction

MODES: Final = get_args(Nested)
#: What may be read inside of a unit that reads: what is at least as new, and no more of one state.
_WITHIN: Final[dict[ReadOnly, set[ReadOnly]]] = {
    "snapshot": {"snapshot", True, "replica"},
    True: {True, "replica"},
    "replica": {"replica"},
}
_LEFT_OPEN: Final = (
    "leave it first; `async for` that is left by `break` leaves its generator open: use "
    "`contextlib.aclosing`"
)


class Nesting(Consequences):
    """A unit that may have others inside, or be inside of one."""

    __slots__ = (
        "_held",
        "_isolation_level",
        "_nested",
        "_options",
        "_resolvable",
        "block",
        "inner",
    )

    _held: Transaction | None
    _isolation_level: str | None
    _nested: Nested | None
    _options: Mapping[str, Any]
    _resolvable: bool | None
    #: Its block, when it is inside of another unit.
    block: "InnerBlock | None"
    #: The block of the unit that was entered inside of it last, and is open.
    inner: "InnerBlock | None"

    @property
    def whole(self) -> "Nesting":
        """The unit whose transaction it uses: itself, unless it was entered inside of one."""
        return self if self.block is None else self.block.whole

    @property
    def outer(self) -> "Nesting | None":
        """The unit that it is a part of, and whose outcome is its own; None for most units."""
        return None if self.block is None else self.block.whole

    def is_about_to_write(self) -> bool:
        """Return True if it has changes or messages to write, or gave its driver away."""
        held, callbacks = self._held, self._callbacks
        if held is not None and (held.drove or held.has_changes()):
            return True
        return callbacks is not None and bool(callbacks.sendings)

    @abstractmethod
    async def end(self, exc: BaseException | None) -> None:
        """End the unit; *exc* is the error that left the block, which Python raises again."""

    async def rollback(self) -> None:
        """Roll back and end the unit now; the rest of the block cannot use it.

        As a part of another unit it goes back to its savepoint; without one, that unit fails.

        Raises:
            UnitOfWorkStateError: The unit is not active.
            UnitOfWorkTaskError: Another task owns it.
        """
        self.check()
        if self.block is not None:
            await self.block.roll_back()
            return
        self.cause = "explicit"
        await self.end(None)

    @abstractmethod
    def hold(self) -> Transaction:
        """Return its transaction, made at the first use: an empty unit needs none."""

    async def join(self, whole: OpenUnit) -> Self:
        """Become a part of *whole*, which the task has open.

        Raises:
            UnitOfWorkStateError: Units inside of units are refused, or this one asks for something
                that *whole* does not have.
            TransactionAbortedError: A statement of *whole* has failed already.
        """
        database = self._database
        mode = self._nested or database.settings.nested
        if mode == "refuse" or not isinstance(whole, Nesting) or whole.state is not ACTIVE:
            raise database.open.second(whole)
        whole.admit(self.read_only, self._isolation_level, self._options)
        transaction = whole.hold()
        transaction.resolvable = transaction.resolvable or bool(self._resolvable)
        _ = whole.session, whole.connection  # made now: they are of the whole, whoever uses them
        block = InnerBlock(self, whole, mode)
        await block.enter()
        self._held, self._callbacks = transaction, whole.registered()
        self.block = whole.inner = block
        if block.is_in_savepoint:
            whole.has_inside(self)
        self.state = ACTIVE
        self.began_at = time.perf_counter()
        report_join(self, whole, mode, database)
        return self

    def admit(
        self, read_only: ReadOnly, isolation_level: str | None, options: Mapping[str, Any]
    ) -> None:
        """Raise unless a unit with these options can be a part of this one.

        Raises:
            UnitOfWorkStateError: It asks for something that this unit does not have.
            TransactionAbortedError: A statement of this unit has failed already.
        """
        if self.failed is not None:
            raise self.swallowed()
        if self.read_only and read_only not in _WITHIN[self.read_only]:
            mine, wanted = f"read_only={self.read_only!r}", f"read_only={read_only!r}"
            self._refuse(f"a unit with {wanted} inside of one with {mine}", f"{wanted}")
        if isolation_level is not None and _level(isolation_level) != _level(self._isolation_level):
            wanted = f"isolation_level={isolation_level!r}"
            self._refuse(f"a unit with {wanted} inside of one with another level", wanted)
        if options != self._options:
            self._refuse("a unit on an engine with other execution options", "the same engine")

    def _refuse(self, what: str, wanted: str) -> None:
        raise UnitOfWorkStateError(
            self.state,
            f"{what} cannot be a part of it",
            f"open the outer one, at {self.place}, with {wanted}, or leave it first",
        )

    def undone_around(self) -> None:
        """Be told that a savepoint around it was rolled back."""
        if self.state is UnitState.JOINED:
            self.state = UnitState.ROLLED_BACK
        elif self.block is not None:
            self.block.part.is_undermined = True

    def leave_whole(self, state: UnitState, error: BaseException | None) -> None:
        """Be over as a part of another unit: nothing of that is used here any more."""
        self.state, self.error = state, error
        self._held = self._callbacks = None

    def report_left(self, mode: JoinMode, outcome: JoinOutcome) -> None:
        """Publish that its block is over."""
        report_leave(self, self.whole, mode, outcome, self._database)

    def end_inner(self, exc: BaseException | None) -> None:
        """End what is still open inside of it at its own end, which *exc* brings about."""
        if exc is None and not self.cause and self.inner is not None:
            self.inner.fail(self.inner.open_error())
        while self.inner is not None:
            self.inner.conclude(exc, "failed")


class InnerBlock:
    """The block of a unit that was entered inside of another one.

    Args:
        unit: The inner unit.
        whole: The unit whose transaction it uses.
        mode: How it joins.
    """

    __slots__ = ("_around", "_mode", "_unit", "is_in_savepoint", "part", "whole")

    def __init__(self, unit: Nesting, whole: Nesting, mode: JoinMode) -> None:
        self.whole = whole
        self._unit = unit
        self._mode: JoinMode = mode
        self._around = whole.inner
        self.is_in_savepoint = False
        self.part: Part[Nesting] | Joined
        if mode == "join":
            self.part = Joined(whole)
        elif whole.has_transaction:
            self.part = Part(whole)
        else:
            self.part = Reading(whole, whole.registered())

    async def enter(self) -> None:
        """Begin the savepoint, if there is one."""
        await self.part.begin()
        self.is_in_savepoint = self.whole.session.in_nested_transaction()

    async def leave(self, error: BaseException | None) -> None:
        """Leave the block; *error* is what leaves it, and is raised by Python.

        Raises:
            TransactionAbortedError: A statement failed and the block swallowed its error.
            UnitOfWorkStateError: A unit inside of it is open.
            UnitOfWorkTaskError: Another task leaves the block.
        """
        if self._unit.state is not ACTIVE:  # by `rollback()`, or by the end of the whole unit
            return
        wrong = error or self._misuse()
        try:
            if wrong is None:
                wrong = await self._keep()
            if wrong is not None:
                await self._undo(wrong)
        finally:
            self.conclude(wrong, "joined" if wrong is None else self._outcome())
        if error is None and wrong is not None:
            raise wrong

    async def roll_back(self) -> None:
        """End the inner unit now, at its savepoint; without one the whole unit fails."""
        self._unit.cause = "explicit"
        stopped = UnitOfWorkStateError(
            self._unit.state, "it was rolled back by hand", 'nested="savepoint" undoes it alone'
        )
        try:
            await self._undo(stopped)
        finally:
            self.conclude(None, self._outcome())

    async def _keep(self) -> BaseException | None:
        """Keep what the block did as a part of the whole; return what prevents that."""
        try:
            await self.part.keep()
        except BaseException as refused:  # noqa: BLE001 -- raised when the savepoint is undone
            return refused
        return None

    async def _undo(self, error: BaseException) -> None:
        """Go back to the savepoint because of *error*; without one the whole unit fails."""
        try:
            await self.part.undo_for(error)  # another task than the owner is refused by its session
        finally:
            if not self.part.undone:
                self.fail(error)

    def _outcome(self) -> JoinOutcome:
        return "rolled_back" if self.part.undone else "failed"

    def fail(self, error: BaseException) -> None:
        """Let the whole unit end with an error, whoever swallows *error* before."""
        whole = self.whole
        if whole.state is ACTIVE and not isinstance(whole.failed, TransactionEndedError):
            whole.failed = TransactionAbortedError(self._unit.place)
            whole.failed.__cause__ = error

    def conclude(self, error: BaseException | None, outcome: JoinOutcome) -> None:
        """Let the inner unit be over, and what is still open inside of it."""
        unit, whole = self._unit, self.whole
        if unit.state is not ACTIVE:  # another task was quicker
            return
        while whole.inner is not None and whole.inner is not self:
            whole.inner.conclude(error, outcome)
        whole.inner = self._around
        undone = outcome == "rolled_back"
        unit.leave_whole(UnitState.ROLLED_BACK if undone else UnitState.JOINED, error)
        unit.report_left(self._mode, outcome)

    def _misuse(self) -> Exception | None:
        """Return what is wrong with leaving the block now, if anything is."""
        if asyncio.current_task() is not self._unit.owner:
            return self._unit.error_of_task()
        inner = self.whole.inner
        return None if inner is None or inner is self else inner.open_error()

    def open_error(self) -> UnitOfWorkStateError:
        """Return the error of a unit that is left while this one inside of it is open."""
        return UnitOfWorkStateError(
            self._unit.state,
            f"the unit inside of this one, opened at {self._unit.place}, is still open",
            _LEFT_OPEN,
        )


def _level(name: str | None) -> str:
    return "" if name is None else name.replace("_", " ").upper()
