"""The session of a unit for code that commits by itself, while that code is being moved."""

import logging
import sys
import warnings
from types import TracebackType
from typing import Final, Self

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from db_manager.database.places import place_text
from db_manager.errors import UnitOfWorkStateError
from db_manager.lanes.lane import Unit, refuse
from db_manager.lanes.session import LaneSession
from db_manager.unit.savepoint import Part

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
        self._part = Part(unit)
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
        self._session.is_over = True
        await self._part.__aexit__(exc_type, exc, traceback)


class LegacySession(LaneSession):
    """`uow.session` with ends that concern a savepoint of the unit, and not its transaction.

    Args:
        unit: The unit.
        part: The savepoint: what the code believes to be its transaction.
    """

    def __init__(self, unit: Unit, part: Part[Unit]) -> None:
        # Not a second session: the one underneath is the same, and for SQLAlchemy it stays that of
        # `uow.session`.
        self.__dict__.update(vars(unit.session))
        self._part = part
        #: Where the block of the session is over, its ends are.
        self.is_over = False

    async def commit(self) -> None:
        """Write what is pending; the unit commits it.

        Raises:
            TransactionAbortedError: A statement failed and its error was swallowed.
            UnitOfWorkStateError: The block of the session is over.
        """
        self._tell("session.commit()")
        await self.keep()

    async def rollback(self) -> None:
        """Go back to the last `commit()`, or to the begin of the block.

        Raises:
            UnitOfWorkStateError: The block of the session is over, or a savepoint in it is open.
        """
        self._tell("session.rollback()")
        await self.undo()

    def begin(self) -> AsyncSessionTransaction:
        """Return a block that ends with `commit()`, or with `rollback()` when it raises."""
        self._tell("session.begin()")
        return _Begun(self)

    async def close(self) -> None:
        """Do nothing: the unit closes."""

    async def reset(self) -> None:
        """Do nothing: the unit closes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, type_: object, value: object, traceback: object) -> None:
        """Do nothing: the unit closes."""

    async def keep(self) -> None:
        """Let what came after the last commit be a part of the unit, and begin anew."""
        if self._part.is_open():
            if not self._part.is_innermost():  # a savepoint that was begun in it decides
                await self.flush()
                return
            await self._part.keep()
        await self._part.begin()

    async def undo(self) -> None:
        """Undo what came after the last commit, and begin anew.

        Raises:
            UnitOfWorkStateError: A savepoint that was begun after it is open.
        """
        if self._part.is_open() and not self._part.is_innermost():
            raise UnitOfWorkStateError(
                self.sync_session.unit.state,
                "session.rollback() is not possible while a savepoint is open",
                "let an error leave the block of the savepoint, which rolls that back",
            )
        await self._part.undo()
        await self._part.begin()

    def _tell(self, what: str) -> None:
        """Tell once for each place that it ends what is not its own.

        Raises:
            UnitOfWorkStateError: The block of the session is over.
        """
        if self.is_over:
            refuse(self.sync_session.unit, f"{what} after the block of `uow.legacy_session()`")
        frame = sys._getframe(2)  # noqa: SLF001 -- inspect has it only with more around it
        place = place_text(frame.f_code, frame.f_lasti)
        if place not in _told:
            _told.add(place)
            _logger.warning("%s at %s is left to the unit, which ends with its block", what, place)
        warnings.warn(
            f"{what} is left to the unit, which commits at the end of its block: leave it out when "
            f"this code is moved",
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
