"""The session of a unit for code that commits by itself, while that code is being moved."""

import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import ORMExecuteState

from db_manager.database.open_unit import ACTIVE
from db_manager.database.places import place_text
from db_manager.errors import TransactionEndedError, UnitOfWorkStateError
from db_manager.lanes.lane import Unit
from db_manager.lanes.session import LaneSession
from db_manager.unit.parts.savepoint import Part

_logger = logging.getLogger("db_manager.legacy")

#: Places that were told: there are as many as the code has.
_told: Final[set[str]] = set()


class LegacySessionWarning(DeprecationWarning):
    """Code that was given a `legacy_session` commits, begins or rolls back by itself.

    Added in 0.2.
    """


class LegacyBlock:
    """The block in which a unit lends its session to code that commits by itself.

    Args:
        unit: The unit.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._part = _Uncommitted(unit)
        self._session: LegacySession

    async def __aenter__(self) -> AsyncSession:
        await self._part.begin()
        self._session = LegacySession(self._unit, self._part)
        return self._session

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, part = self._session, self._part
        await session.end()
        is_left = exc is None and self._unit.state is ACTIVE and part.has_writes(session)
        await part.__aexit__(exc_type, exc, traceback)
        if is_left:
            advice = "a session of its own would take it back: end with its commit() or rollback()"
            session.tell("what was written after the last session.commit()", advice)


class _Uncommitted(Part[Unit]):
    """What a lent session has done since its last commit."""

    __slots__ = ("wrote",)

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        #: Whether something was written, as far as the session knows.
        self.wrote = False

    async def begin(self) -> None:
        """Begin the savepoint."""
        await super().begin()
        self.wrote = False

    def has_writes(self, session: AsyncSession) -> bool:
        """Return True if something was written, or is pending in *session*."""
        return bool(self.wrote or session.new or session.dirty or session.deleted)


class LegacySession(LaneSession):
    """`uow.session` with ends that concern a savepoint of the unit, and not its transaction.

    Args:
        unit: The unit.
        part: The savepoint: what the code believes to be its transaction.
    """

    def __init__(self, unit: Unit, part: _Uncommitted) -> None:
        # Not a second session: the one underneath is the same, and for SQLAlchemy it stays that of
        # `uow.session`.
        self.__dict__.update(vars(unit.session))
        self._unit = unit
        #: The savepoint of the block, and that of each `async with session:` which is open in it.
        self._parts = [part]
        self._is_over = False
        for name, heard in self._events():
            event.listen(self.sync_session, name, heard)

    async def commit(self) -> None:
        """Write what is pending; the unit commits it.

        Raises:
            TransactionAbortedError: A statement failed and its error was swallowed.
            UnitOfWorkStateError: The block of the session is over.
        """
        self.tell("session.commit()")
        await self.keep()

    async def rollback(self) -> None:
        """Go back to the last `commit()`, or to the begin of the block.

        Raises:
            UnitOfWorkStateError: The block of the session is over, or a savepoint in it is open.
        """
        self.tell("session.rollback()")
        await self.undo()

    def begin(self) -> AsyncSessionTransaction:
        """Return a block that ends with `commit()`, or with `rollback()` when it raises.

        Raises:
            UnitOfWorkStateError: The block of the session is over.
        """
        self._check()
        self.tell("session.begin()")
        return _Begun(self)

    async def close(self) -> None:
        """Go back to the last `commit()`, as the end of a session does; the unit closes."""
        if self._is_usable():
            await self._go_back()

    async def reset(self) -> None:
        """Do what `close()` does."""
        await self.close()

    async def __aenter__(self) -> Self:
        """Begin a session of its own: its end takes nothing back that came before.

        Raises:
            UnitOfWorkStateError: The block of the session is over.
        """
        self._check()
        part = _Uncommitted(self._unit)
        await part.begin()
        self._parts.append(part)
        return self

    async def __aexit__(self, type_: object, value: BaseException | None, tb: object) -> None:
        """Go back to the last `commit()` in it, as the end of a session does; the unit closes."""
        part = self._parts.pop()
        if not self._is_usable():
            return
        if value is None:
            await part.undo()
        else:
            await part.undo_for(value)

    async def end(self) -> None:
        """Let the block of the session be over; those of `async with session:` are over before."""
        for name, heard in self._events():
            event.remove(self.sync_session, name, heard)
        left_open = self._parts[1:] if self._is_usable() else []
        self._is_over = True
        for part in left_open:
            await part.undo()

    async def keep(self) -> None:
        """Let what came after the last commit be a part of the unit, and begin anew.

        Raises:
            UnitOfWorkStateError: The block of the session is over.
        """
        self._check()
        part = self._parts[-1]
        if part.is_open():
            if not part.is_innermost():  # a savepoint that was begun in it decides
                await self.flush()
                return
            await part.keep()
        await part.begin()

    async def undo(self) -> None:
        """Undo what came after the last commit, and begin anew.

        Raises:
            UnitOfWorkStateError: The block of the session is over, or a savepoint that was begun
                after the last commit is open.
        """
        self._check()
        part = self._parts[-1]
        if part.is_open() and not part.is_innermost():
            raise UnitOfWorkStateError(
                self._unit.state,
                "session.rollback() is not possible while a savepoint is open",
                "let an error leave the block of the savepoint, which rolls that back",
            )
        await self._go_back()

    async def _go_back(self) -> None:
        part = self._parts[-1]
        await part.undo()
        with suppress(TransactionEndedError):  # the connection is lost: the unit says so at its end
            await part.begin()

    def _is_usable(self) -> bool:
        return not self._is_over and self._unit.state is ACTIVE

    def _check(self) -> None:
        """Raise when the block of the session is over.

        Raises:
            UnitOfWorkStateError: It is.
        """
        if self._is_over:
            raise UnitOfWorkStateError(
                self._unit.state,
                "the block of `uow.legacy_session()` is over, and its session ends nothing now",
                "use the session in that block, or `uow.session`, which the unit ends",
            )

    def _events(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        """Return SQLAlchemy's events that tell of writes, and what hears them."""
        return ("after_flush", self._flushed), ("do_orm_execute", self._executes)

    def _flushed(self, *_: object) -> None:
        self._parts[-1].wrote = True

    def _executes(self, state: ORMExecuteState) -> None:
        if state.is_insert or state.is_update or state.is_delete:
            self._parts[-1].wrote = True

    def tell(self, what: str, advice: str = "leave it out when this code is moved") -> None:
        """Tell once for each place, the caller of the caller, that the unit ends something.

        Args:
            what: What is left to the unit.
            advice: What to do about it.
        """
        frame = sys._getframe(2)  # noqa: SLF001 -- inspect has it only with more around it
        place = place_text(frame.f_code, frame.f_lasti)
        if place not in _told:
            _told.add(place)
            _logger.warning("%s at %s is left to the unit, which ends with its block", what, place)
        warnings.warn(
            f"{what} is left to the unit, which commits at the end of its block: {advice}",
            LegacySessionWarning,
            stacklevel=3,
        )


class _Begun(AsyncSessionTransaction):
    """What `begin()` of a legacy session returns: its block ends what is there already."""

    __slots__ = ()

    session: LegacySession

    @property
    def is_active(self) -> bool:
        return True

    async def start(self, is_ctxmanager: bool = False) -> Self:  # noqa: ARG002, FBT001, FBT002 -- SQLAlchemy's signature
        return self

    async def commit(self) -> None:
        await self.session.keep()

    async def rollback(self) -> None:
        await self.session.undo()

    async def __aexit__(self, type_: object, value: object, traceback: object) -> None:
        if value is not None:
            await self.session.undo()
            return
        try:
            await self.session.keep()
        except BaseException:
            await self.session.undo()
            raise
