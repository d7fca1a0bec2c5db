"""Deadlines that are hardly ever reached, at the price of an entry in a set."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

#: Seconds by which a deadline may be late: those of one such moment share a timer of the loop.
GRAIN: Final = 0.1


class Deadline:
    """A call that is to be made when time is over."""

    __slots__ = ("_args", "_callback", "_moment")

    def __init__(
        self, moment: "set[Deadline]", callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._moment = moment
        self._callback = callback
        self._args = args
        moment.add(self)

    def cancel(self) -> None:
        """Forget it: what was waited for has come."""
        self._moment.discard(self)

    def call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the call; what it raises is told as of any callback of *loop*."""
        try:
            self._callback(*self._args)
        except Exception as error:  # noqa: BLE001 -- others have their deadline at the same moment
            name = getattr(self._callback, "__qualname__", type(self._callback).__qualname__)
            loop.call_exception_handler(
                {"message": f"{name} failed, as a deadline", "exception": error}
            )


class Deadlines:
    """Makes calls after a time, up to `GRAIN` seconds late.

    A timer of the event loop costs some 4 µs, most of it for order in a heap of timers that are
    cancelled before their time (docs/performance.md).

    Args:
        loop: The event loop they belong to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._moments: dict[int, set[Deadline]] = {}

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Deadline:
        """Call *callback* in *delay* seconds, or a little later.

        Args:
            delay: Seconds.
            callback: A plain function; what it raises goes to the loop's exception handler.
            *args: Its arguments.

        Returns:
            The deadline, to be cancelled.
        """
        number = int((self.loop.time() + delay) / GRAIN) + 1
        moment = self._moments.get(number)
        if moment is None:
            moment = self._moments[number] = set()
            # In a context of its own: it would keep the variables of whoever came first alive.
            self.loop.call_at(number * GRAIN, self._reach, number, context=Context())
        return Deadline(moment, callback, args)

    def _reach(self, number: int) -> None:
        moment = self._moments.pop(number)
        while moment:
            moment.pop().call(self.loop)
