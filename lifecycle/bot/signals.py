"""SIGTERM and SIGINT for everything in a process that has to be stopped."""

import asyncio
import signal
import sys
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
        #: What asyncio's loop would call; None of one that lets nobody see it, as uvloop's.
        self._handlers: dict[int, Any] | None = getattr(loop, "_signal_handlers", None)
        self._of_loop: dict[int, Any] = {}

    def install(self) -> None:
        """Listen to the signals."""
        for number in _SIGNALS:
            with suppress(RuntimeError, ValueError):  # only the main thread may set handlers
                self._listen(number, signal.getsignal(number))

    def _listen(self, number: int, before: Any) -> None:
        if self._handlers is None:  # one of its own could not be given back to it
            signal.signal(number, self._stop_from_outside)
        else:
            of_loop = self._handlers.get(number)
            self._loop.add_signal_handler(number, self._stop_all)
            self._of_loop[number] = of_loop
            signal.signal(number, self._hint)  # the loop has its own way to learn of it
        self._before[number] = before
        if sys.platform != "win32":
            signal.siginterrupt(number, False)  # noqa: FBT003 -- as asyncio does; takes positions only

    def remove(self) -> None:
        """Leave the handlers that were there before, without another in between.

        `remove_signal_handler` sets the default, which kills. To block the signal meanwhile is of
        no use: it is sent to the process, and another thread takes it.
        """
        for number, before in self._before.items():
            if self._of_loop.get(number) is not None:
                handle = self._of_loop[number]
                self._loop.add_signal_handler(number, handle._callback, *handle._args)  # noqa: SLF001 -- a handle says by nothing else what it calls
            else:
                # None: a program in C has set it, and nothing in Python can do so.
                signal.signal(number, signal.SIG_DFL if before is None else before)
                self._forget(number)

    def _forget(self, number: int) -> None:
        """Let asyncio's loop know that it calls nothing more."""
        if self._handlers is not None:
            self._handlers.pop(number, None)
            if not self._handlers:
                signal.set_wakeup_fd(-1)

    def _stop_all(self) -> None:
        for stop in list(self.stops.values()):
            stop()

    def _hint(self, _number: int, _frame: FrameType | None) -> None:
        for hint in list(self.hints.values()):
            hint()

    def _stop_from_outside(self, number: int, frame: FrameType | None) -> None:
        self._hint(number, frame)
        self._loop.call_soon_threadsafe(self._stop_all)


_listeners: dict[asyncio.AbstractEventLoop, _Listeners] = {}


@contextmanager
def told_to_stop(stop: Callable[[], None], hint: Callable[[], None]) -> Iterator[None]:
    """Listen to SIGTERM and SIGINT during the block, beside others in this loop who do.

    Each signal is told to all of them. The handlers that were there before the first are back
    after the last; meanwhile none of them is called, but for one that was added to a loop which
    does not show its handlers, as uvloop's. In another thread than the main one no signal is heard.

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
