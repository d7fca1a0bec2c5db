"""SIGTERM and SIGINT for everything in a process that has to be stopped."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class _Listeners:
    """Who is told of a signal, in one event loop; and what was there before.

    Args:
        loop: The loop, which runs in the main thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: What stops each; called in the loop.
        self.stops: dict[object, Callable[[], None]] = {}
        #: Called in the signal handler itself, although the loop may be blocked.
        self.hints: dict[object, Callable[[], None]] = {}
        self._before: dict[int, Any] = {}
        self._of_loop: dict[int, Any] = {}

    def install(self) -> None:
        """Listen to the signals."""
        handlers = getattr(self._loop, "_signal_handlers", {})  # asyncio lets nobody ask for them
        for number in _SIGNALS:
            of_loop, before = handlers.get(number), signal.getsignal(number)
            # Windows has no such handlers; another thread than the main one may not set them.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.add_signal_handler(number, self._stop_all)
                self._before[number], self._of_loop[number] = before, of_loop
                signal.signal(number, self._hint)  # the loop has its own way to learn of it
                signal.siginterrupt(number, False)  # noqa: FBT003 -- as asyncio does; takes positions only

    def remove(self) -> None:
        """Leave the handlers that were there before; asyncio's loop has no other in between.

        `remove_signal_handler` sets the default, which kills. To block the signal meanwhile is of
        no use: it is sent to the process, and another thread takes it.
        """
        handlers = getattr(self._loop, "_signal_handlers", {})
        for number, before in self._before.items():
            of_loop = self._of_loop[number]
            if of_loop is not None:
                self._loop.add_signal_handler(number, of_loop._callback, *of_loop._args)  # noqa: SLF001 -- a handle says by nothing else what it calls
            elif before is None or number not in handlers:
                self._loop.remove_signal_handler(number)
                if before is not None:  # else a program in C has set it
                    signal.signal(number, before)
            else:
                signal.signal(number, before)
                del handlers[number]
                if not handlers:
                    signal.set_wakeup_fd(-1)

    def _stop_all(self) -> None:
        for stop in list(self.stops.values()):
            stop()

    def _hint(self, _number: int, _frame: FrameType | None) -> None:
        for hint in list(self.hints.values()):
            hint()


_listeners: dict[asyncio.AbstractEventLoop, _Listeners] = {}


@contextmanager
def told_to_stop(stop: Callable[[], None], hint: Callable[[], None]) -> Iterator[None]:
    """Listen to SIGTERM and SIGINT during the block, beside others in this loop who do.

    Each signal is told to all of them. The handlers that were there before the first are back
    after the last. In another thread than the main one no signal is heard.

    Args:
        stop: Called in the event loop.
        hint: Called at once, also while Python code blocks the loop; it takes no lock.
    """
    loop = asyncio.get_running_loop()
    listeners = _listeners.get(loop)
    if listeners is None:
        listeners = _Listeners(loop)
        listeners.install()
        _listeners[loop] = listeners
    key = object()
    listeners.stops[key], listeners.hints[key] = stop, hint
    try:
        yield
    finally:
        del listeners.stops[key], listeners.hints[key]
        if not listeners.stops:
            del _listeners[loop]
            listeners.remove()
