"""What a process has to send: each bot, and the broker, has places of its own."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from db_manager.delivery.table.claims import Claimed

#: Messages of a sender that a process has at most, in windows.
_HELD: Final = 25


def sender_of(lane: str) -> int:
    """Return the number of the bot whose lane it is, or that of a broker."""
    return int(lane.partition(":")[0])


class Backlog:
    """The messages of this process.

    A bot that is refused, or a broker that is away, fills its own places: nothing of others waits.

    Args:
        window: Messages of a sender that may be sent or being sent, and not marked.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._rows: dict[int, Claimed] = {}
        self._counts: Counter[int] = Counter()
        self._windows: dict[int, asyncio.Semaphore] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def get(self, number: int) -> Claimed | None:
        """Return the message of this number, if it is here."""
        return self._rows.get(number)

    def put(self, row: Claimed) -> None:
        """Have *row*, also in the place of one with its number."""
        self._counts[row.bot_id] += row.id not in self._rows
        self._rows[row.id] = row

    def drop(self, row: Claimed) -> None:
        """Have *row* no more, if it is here."""
        if self._rows.get(row.id) is row:
            del self._rows[row.id]
            self._counts[row.bot_id] -= 1

    def clear(self) -> None:
        """Have nothing."""
        self._rows.clear()
        self._counts.clear()

    def lanes(self) -> set[str]:
        """Return the lanes of what is here."""
        return {row.lane for row in self._rows.values()}

    def with_room(self, senders: Iterable[int]) -> tuple[list[int], int]:
        """Return those of *senders* that have room for a window more, and how many each may get."""
        most = _HELD * self._window
        free = [each for each in senders if most - self._counts[each] >= self._window]
        return free, min((most - self._counts[each] for each in free), default=0)

    def window(self, sender: int) -> asyncio.Semaphore:
        """Return what bounds the messages of *sender* that a death repeats."""
        return self._windows.setdefault(sender, asyncio.Semaphore(self._window))

    @property
    def in_windows(self) -> int:
        """How many are sent or being sent, and not marked."""
        free = sum(each._value for each in self._windows.values())  # noqa: SLF001 -- a semaphore tells nobody
        return self._window * len(self._windows) - free
