"""Coarse timers for deadlines that almost never fire: one loop timer per tenth of a second."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

#: Seconds by which a call may be late. Calls due in the same interval share a timer of the loop.
GRAIN: Final = 0.1


class Timer(partial[object]):
    """A scheduled call, which can be cancelled."""

    __slots__ = ("moment",)

    #: The calls that are due in the same interval.
    moment: "set[Timer]"

    def cancel(self) -> None:
        """Cancel the call."""
        moment = self.moment
        moment.discard(self)
        if not moment:
            moment.clear()  # a set that was large stays large: of 1,000 calls, until it is due

    def call(self) -> None:
        """Make the call; an error goes to the exception handler of the running loop."""
        try:
            self()
        except Exception as error:  # noqa: BLE001 -- other calls are due in the same interval
            name = getattr(self.func, "__qualname__", type(self.func).__qualname__)
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{name} failed, as a timer", "exception": error}
            )


class CoarseTimers:
    """Schedules calls in one event loop, each up to `GRAIN` seconds late.

    A timer of the event loop costs about 4 µs, mostly to keep a heap of timers sorted that are
    cancelled before they fire (docs/performance.md).
    """

    def __init__(self) -> None:
        self._moments: dict[int, set[Timer]] = {}

    @classmethod
    def current(cls) -> "CoarseTimers":
        """Return the timers that all users of the running event loop share."""
        loop = asyncio.get_running_loop()
        known = _of_loops.get(loop)
        if known is None:
            known = _of_loops[loop] = cls()
        return known

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call *callback* in *delay* seconds, or up to `GRAIN` seconds later.

        Args:
            delay: Seconds.
            callback: A plain function; an error goes to the loop's exception handler.
            *args: Its arguments.

        Returns:
            The timer, which can be cancelled.
        """
        now = monotonic()  # the loop is asked for its time only once in an interval
        number = int((now + delay) / GRAIN) + 1
        moment = self._moments.get(number)
        if moment is None:
            moment = self._moments[number] = set()
            loop = asyncio.get_running_loop()
            due = loop.time() + (number * GRAIN - now)
            # In an empty context: the timer would keep the context of its first caller alive.
            loop.call_at(due, self._reach, number, context=Context())
        timer = Timer(callback, *args)
        timer.moment = moment
        moment.add(timer)
        return timer

    def _reach(self, number: int) -> None:
        moment = self._moments.pop(number)
        while moment:
            moment.pop().call()


#: `CoarseTimers` refers to no loop, so the values keep no key alive.
_of_loops: "WeakKeyDictionary[asyncio.AbstractEventLoop, CoarseTimers]" = WeakKeyDictionary()
