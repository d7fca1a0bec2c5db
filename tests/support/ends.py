"""Two rows in a unit, something hostile between them, and whether the unit told the truth of it."""

import contextlib
from collections.abc import Awaitable, Callable

from sqlalchemy import text

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.unit.uow import UnitOfWork

#: What is done in the middle of a unit.
Way = Callable[[UnitOfWork], Awaitable[object]]

BEFORE, AFTER = 1, 2


class Rows:
    """The table in which the rows of such a unit are, or are not.

    Args:
        table: Its name; its key is `id`, and every other column has a default.
    """

    def __init__(self, table: str) -> None:
        self._table = table

    async def write(self, uow: UnitOfWork, number: int) -> None:
        """Write a row on the Core lane."""
        await uow.connection.execute(text(f"INSERT INTO {self._table} (id) VALUES ({number})"))

    async def ids(self, database: Database) -> set[int]:
        """Return what is written."""
        async with UnitOfWork(database) as uow:
            return set((await uow.session.scalars(text(f"SELECT id FROM {self._table}"))).all())

    async def clear(self, database: Database) -> None:
        """Delete what is written."""
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text(f"DELETE FROM {self._table}"))

    async def play(
        self, database: Database, way: Way, *, first: bool, swallow: bool, fail: bool
    ) -> tuple[UnitOfWork, str]:
        """Write two rows in a unit and go a way between them.

        Args:
            database: Where.
            way: What is done by hand.
            first: Write a row before it, too.
            swallow: Let the block swallow what the way, and a statement after it, raises.
            fail: Let the block raise at its end.

        Returns:
            The unit, and how what it said of itself differs from what is in the table, or "".
        """
        unit, error = UnitOfWork(database), None
        ignored = (Exception,) if swallow else ()
        try:
            async with unit:
                if first:
                    await self.write(unit, BEFORE)
                with contextlib.suppress(*ignored):
                    await way(unit)
                with contextlib.suppress(*ignored):
                    if not first:
                        await self.write(unit, BEFORE)
                    await self.write(unit, AFTER)
                if fail:
                    raise ZeroDivisionError  # noqa: TRY301 -- the block's own
        except Exception as raised:  # noqa: BLE001 -- any driver may refuse in its own words
            error = raised
        there = await self.ids(database)
        lie = judge(unit, error, there)
        return unit, f"{lie}: {unit.state}, {error!r}, {there}" if lie else ""


def judge(unit: UnitOfWork, error: BaseException | None, there: set[int]) -> str:
    """Return how what a unit said of itself differs from what is in the table."""
    if unit.state is UnitState.COMMITTED:
        if error is not None:
            return "committed, and an error"
        return "" if {BEFORE, AFTER} <= there else "committed, and rows are lost"
    if unit.state is UnitState.ROLLED_BACK:
        if error is None:
            return "rolled back in silence"
        return "rolled back, and rows are there" if there else ""
    said = f"{error!r} {getattr(error, '__notes__', '')}"
    told = ("TransactionEnded", "ended the transaction", "committed everything")
    return "" if any(words in said for words in told) else "unknown, and nobody says why"
