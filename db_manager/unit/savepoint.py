"""Savepoints: a part of a unit that can fail without the rest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from db_manager.database.callbacks import Callbacks
from db_manager.database.open_unit import ACTIVE, OpenUnit
from db_manager.errors import TransactionAbortedError
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
        self._before: dict[object, tuple[tuple[int, int], BaseException | None]] = {}

    def made(self, savepoint: object) -> None:
        """Save the callbacks and the failure before *savepoint*."""
        self._before[savepoint] = (self._callbacks.mark(), self._unit.failed)

    def undone(self, savepoint: object) -> None:
        """Restore the callbacks and the failure from before *savepoint*."""
        if self._unit.state is ACTIVE and savepoint in self._before:
            mark, self._unit.failed = self._before.pop(savepoint)
            self._callbacks.drop_since(mark)


@asynccontextmanager
async def part(unit: U) -> AsyncIterator[U]:
    """Run the block in a savepoint of *unit*; an error that leaves it rolls it back and propagates.

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
        if unit.state.is_final:  # by `unit.rollback()`: the savepoint is gone
            return
        if unit.failed is not failed:
            raise TransactionAbortedError from unit.failed  # noqa: TRY301 -- rolled back below
        await nested.commit()
    except BaseException as error:
        try:
            if (
                not unit.state.is_final
                and unit.session.get_nested_transaction() is nested  # otherwise its commit ended it
            ):
                await nested.rollback()
        except Exception as wrong:  # noqa: BLE001 -- the part's own error is what matters
            error.add_note(f"the rollback to the savepoint failed: {tell(wrong)}")
        raise
