"""A part of a unit that can fail alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from db_manager.database.callbacks import Callbacks
from db_manager.database.open_unit import OpenUnit, UnitState
from db_manager.errors import TransactionAbortedError
from db_manager.lanes.lane import Unit
from lifecycle.error_text import tell

U = TypeVar("U", bound=Unit)


class Savepoints:
    """What was before each savepoint of a unit: its callbacks, and what had failed.

    Args:
        unit: The unit.
        callbacks: Its callbacks.
    """

    __slots__ = ("_before", "_callbacks", "_unit")

    def __init__(self, unit: OpenUnit, callbacks: Callbacks) -> None:
        self._unit = unit
        self._callbacks = callbacks
        self._before: dict[object, tuple[tuple[int, int], BaseException | None]] = {}

    def made(self, savepoint: object) -> None:
        """Remember what was before *savepoint*."""
        self._before[savepoint] = (self._callbacks.mark(), self._unit.failed)

    def undone(self, savepoint: object) -> None:
        """Forget what was since *savepoint*."""
        if self._unit.state is UnitState.ACTIVE and savepoint in self._before:
            mark, self._unit.failed = self._before.pop(savepoint)
            self._callbacks.drop_since(mark)


@asynccontextmanager
async def part(unit: U) -> AsyncIterator[U]:
    """Make the block a part of *unit*: an error that leaves it undoes it, and goes on.

    Args:
        unit: The unit.

    Yields:
        The unit.

    Raises:
        TransactionAbortedError: A statement of the part failed and the part swallowed it.
    """
    failed = unit.failed
    nested = await unit.session.begin_nested()
    try:
        yield unit
        if unit.state.is_final:  # by its `rollback()`: there is no part any more
            return
        if unit.failed is not failed:
            raise TransactionAbortedError from unit.failed  # noqa: TRY301 -- undone below
        await nested.commit()
    except BaseException as error:
        try:
            if (
                not unit.state.is_final
                and unit.session.get_nested_transaction() is nested  # else it ended in its commit
            ):
                await nested.rollback()
        except Exception as wrong:  # noqa: BLE001 -- the part's own error is what matters
            error.add_note(f"the rollback to the savepoint failed: {tell(wrong)}")
        raise
