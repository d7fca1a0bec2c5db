"""Coarse timers for deadlines that almost never fire: one of the loop's per tenth of a second."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final
from weakref import WeakKeyDictionary

#: Seconds by which a call may be late: those of one such moment share a timer of the loop.
GRAIN: Final = 0.1


class Timer:
    """A call that is to be made when time is over."""

    __slots__ = ("_args", "_callback", "_moment")

    def __init__(
        self, moment: "set[Timer]", callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._moment = moment
        self._callback = callback
        self._args = args
        moment.add(self)

    def cancel(self) -> None:
        """Forget it: what was waited for has come."""
        self._moment.discard(self)

    def call(self) -> None:
        """Make the call; what it raises is told as of any callback of the running loop."""
        try:
            self._callback(*self._args)
        except Exception as error:  # noqa: BLE001 -- others have their time at the same moment
            name = getattr(self._callback, "__qualname__", type(self._callback).__qualname__)
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{name} failed, as a timer", "exception": error}
            )


class Timers:
    """Makes calls after a time, up to `GRAIN` seconds late; of one event loop.

    A timer of the event loop costs some 4 µs, most of it for order in a heap of timers that are
    cancelled before their time (docs/performance.md).
    """

    def __init__(self) -> None:
        self._moments: dict[int, set[Timer]] = {}

    @classmethod
    def current(cls) -> "Timers":
        """Return those that all who run in the running event loop share."""
        loop = asyncio.get_running_loop()
        known = _of_loops.get(loop)
        if known is None:
            known = _of_loops[loop] = cls()
        return known

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call *callback* in *delay* seconds, or a little later.

        Args:
            delay: Seconds.
            callback: A plain function; what it raises goes to the loop's exception handler.
            *args: Its arguments.

        Returns:
            The timer, to be cancelled.
        """
        loop = asyncio.get_running_loop()
        number = int((loop.time() + delay) / GRAIN) + 1
        moment = self._moments.get(number)
        if moment is None:
            moment = self._moments[number] = set()
            # In a context of its own: it would keep the variables of whoever came first alive.
            loop.call_at(number * GRAIN, self._reach, number, context=Context())
        return Timer(moment, callback, args)

    def _reach(self, number: int) -> None:
        moment = self._moments.pop(number)
        while moment:
            moment.pop().call()


#: They hold no loop, so that this keeps none alive.
_of_loops: "WeakKeyDictionary[asyncio.AbstractEventLoop, Timers]" = WeakKeyDictionary()
