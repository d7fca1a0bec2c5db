"""Ends a process that was told to stop and does not: something in it ignores its cancellation."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Final

from lifecycle.bot.in_flight import Work
from lifecycle.tasks import abandoned, name_of, name_of_work

#: Seconds beyond its time that a stop, and what `asyncio.run` waits for after it, are given.
LAST_WORDS: Final = 1.0
#: Seconds between two looks at what is left.
_LOOK: Final = 0.1
#: What `asyncio.run` waits for at its end, when everything else has ended.
_LOOPS_OWN: Final = ("shutdown_default_executor", "shutdown_asyncgens")
#: In the name of the thread in which asyncio waits for those of its executor.
_WAITS_FOR_OTHERS: Final = "_do_shutdown"

_log = logging.getLogger("lifecycle")


class LastResort:
    """Watches one stop from a thread of its own; nothing happens when it ends in time.

    The process ends with exit code 1 in two cases. The stop itself is not over a second after its
    time: the event loop is blocked. Or it is over, `grace` has passed, and `asyncio.run` waits for
    tasks that ignore their cancellation or for threads. A program that goes on after the bot is
    none of these.

    Args:
        grace: Seconds that the stop may take.
        in_flight: Returns what is being handled, for people.
        flush: Called before the end.
    """

    def __init__(
        self, grace: float, in_flight: Callable[[], Iterable[Work]], flush: Callable[[], None]
    ) -> None:
        self._grace = grace
        self._in_flight = in_flight
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._caller = asyncio.current_task()
        self._over = False
        self._main = threading.current_thread() is threading.main_thread()
        self._wake, self._wakes = os.pipe()
        self._told = False
        threading.Thread(target=self._wait, name="last resort", daemon=True).start()

    def told_to_stop(self) -> None:
        """Let the time run; called from a signal handler, too: it takes no lock."""
        if not self._told:
            self._told = True
            os.write(self._wakes, b"!")

    def over(self) -> None:
        """Say that the stop has ended; what was never told to stop is watched no more."""
        self._over = self._told = True
        os.close(self._wakes)

    def _wait(self) -> None:
        told = os.read(self._wake, 1)
        os.close(self._wake)
        # The end of a loop in another thread is not the end of the process.
        if told and self._main:
            self._watch(time.monotonic() + self._grace)

    def _watch(self, deadline: float) -> None:
        seen = None  # since when something is left
        while not self._loop.is_closed() or not threading.main_thread().is_alive():
            now = time.monotonic()
            left = self._left() if self._over else self._stopping(late=now > deadline + LAST_WORDS)
            seen = (seen or now) if left else None
            patient = seen is None or (self._over and now < seen + LAST_WORDS)
            if not patient and (now > deadline or abandoned()):
                self._end(left)
            time.sleep(_LOOK)

    def _stopping(self, *, late: bool) -> list[str]:
        """Return what the stop waits for, when it is late."""
        if not late:
            return []
        doing = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 -- documented
        return [*map(str, self._in_flight()), *abandoned(), f"the main thread (in {_where(doing)})"]

    def _left(self) -> list[str]:
        """Return what the end of the process waits for; nothing when it is not ending."""
        if not threading.main_thread().is_alive():
            return _threads() or ["the interpreter"]
        tasks = asyncio.all_tasks(self._loop)
        others = [task for task in tasks if not name_of_work(task).endswith(_LOOPS_OWN)]
        if (
            not tasks
            or (self._caller is not None and not self._caller.done())
            or not all(task.cancelling() for task in others)
        ):
            return []
        handled = {work.task: str(work) for work in self._in_flight()}
        return sorted(handled.get(task) or name_of(task) for task in others) or _threads()

    def _end(self, left: list[str]) -> None:
        backup = threading.Timer(3 * LAST_WORDS, os._exit, (1,))  # should what follows hang, too
        backup.daemon = True
        backup.start()
        with suppress(Exception):
            _log.critical("ending the process: %s did not stop", ", ".join(left))
        with suppress(Exception):
            self._flush()
        for handler in logging.getLogger().handlers:
            with suppress(Exception):
                handler.flush()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(1)


def _threads() -> list[str]:
    """Return the threads that the interpreter waits for, and what they do."""
    frames = sys._current_frames()  # noqa: SLF001 -- documented
    return [
        f"thread {thread.name} (in {_where(frames.get(thread.ident or 0))})"
        for thread in threading.enumerate()
        if not thread.daemon
        and thread is not threading.main_thread()
        and _WAITS_FOR_OTHERS not in thread.name
    ]


def _where(frame: FrameType | None) -> str:
    return "?" if frame is None else frame.f_code.co_qualname
