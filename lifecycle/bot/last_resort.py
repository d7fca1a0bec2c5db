"""Ends a process that was told to stop and does not: something in it ignores its cancellation."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import Final, Self

from lifecycle.bot.in_flight import Work
from lifecycle.tasks import abandoned, name_of, name_of_work

#: Seconds beyond its time that a stop is given, and that an end of the process has in any case.
LAST_WORDS: Final = 1.0
#: Seconds between two looks at the process.
_LOOK: Final = 0.1
#: Looks in a row that see the same before it is believed: it lasts `LAST_WORDS`.
_LOOKS: Final = 10
#: What `asyncio.run` waits for at its end, when everything else has ended.
_LOOPS_OWN: Final = ("shutdown_default_executor", "shutdown_asyncgens")
#: In the name of the thread in which asyncio waits for those of its executor.
_WAITS_FOR_OTHERS: Final = "_do_shutdown"
#: Where the main thread is while `asyncio.run` ends, and while the interpreter waits for threads.
_RUN_ENDS: Final = asyncio.Runner.close.__code__
_INTERPRETER_ENDS: Final = threading._shutdown.__code__  # type: ignore[attr-defined]  # noqa: SLF001 -- nothing public says that it ends

#: Returns the names of what keeps the process.
Naming = Callable[[], list[str]]

_log = logging.getLogger("lifecycle")

#: Of this process: the end of one is the end of all.
_watching: set["LastResort"] = set()


class LastResort:
    """Watches a run, the block: its stop, and the end of the process, from threads of its own.

    Nothing happens when both come in time, else the process ends with exit code 1. The stop is not
    over a second after its time: Python code blocks the event loop. Or it is over, its time is
    too, and the process ends, but cannot: `asyncio.run` waits for tasks that ignore their
    cancellation or for threads, or the interpreter does for threads. An end has a second in any
    case.

    The watch is over for good as soon as a program goes on: for a second after the stop the main
    thread neither leaves `asyncio.run` nor the interpreter.

    Args:
        grace: Seconds that the stop may take.
        in_flight: Returns what is being handled, for people.
        flush: Called before the end, whichever run of the process is the one that ends it.

    Raises:
        RuntimeError: No thread can be started.
    """

    def __init__(
        self, grace: float, in_flight: Callable[[], Iterable[Work]], flush: Callable[[], None]
    ) -> None:
        self._grace = grace
        self._in_flight = in_flight
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._main = threading.current_thread() is threading.main_thread()
        self._told: SimpleQueue[bool] = SimpleQueue()
        self._verdict: SimpleQueue[Naming | None] = SimpleQueue()
        # Both now: an interpreter that ends starts no thread any more.
        try:
            threading.Thread(target=self._speak, name="last words", daemon=True).start()
            threading.Thread(target=self._judge, name="last resort", daemon=True).start()
        except RuntimeError:
            self._verdict.put(None)
            raise
        _watching.add(self)

    def __enter__(self) -> Self:
        return self

    def told_to_stop(self) -> None:
        """Let the time run; called from a signal handler, too: it takes no lock."""
        self._told.put(True)  # noqa: FBT003 -- SimpleQueue.put takes an item

    def __exit__(self, *_: object) -> None:
        """Say that the stop has ended; what was never told to stop is watched no more."""
        self._over = True
        self._told.put(False)  # noqa: FBT003 -- the same

    def _judge(self) -> None:
        names = None
        # The end of a loop in another thread is not the end of the process.
        if self._told.get() and self._main:
            names = self._watch(time.monotonic() + self._grace)
        if names is None:
            _watching.discard(self)
        self._verdict.put(names)
        if names is not None:
            time.sleep(3 * LAST_WORDS)
            os._exit(1)  # the last words hang, too

    def _watch(self, deadline: float) -> Naming | None:
        """Return what names that which keeps the process; None when the program goes on."""
        before, looks = False, 0
        while True:
            time.sleep(_LOOK)
            with suppress(Exception):  # the process changes under the eyes: one look that fails
                late = time.monotonic() - deadline
                if not (self._over or self._loop.is_closed()):
                    if late > LAST_WORDS:
                        return self._stopping
                    continue
                names = self._ending()
                ends = names is not None
                before, looks = ends, looks + 1 if ends is before else 1
                if looks >= _LOOKS and (not ends or late > 0 or abandoned()):
                    return names

    def _ending(self) -> Naming | None:
        """Return what names that which the end of the process waits for; None when it goes on."""
        main = threading.main_thread()
        if not main.is_alive():
            return _threads
        frame = sys._current_frames().get(main.ident or 0)  # noqa: SLF001 -- documented
        while frame is not None:
            if frame.f_code is _INTERPRETER_ENDS:
                return _threads
            if frame.f_code is _RUN_ENDS and not self._loop.is_closed():
                return self._tasks
            frame = frame.f_back
        return None

    def _stopping(self) -> list[str]:
        """Return what the stop waits for."""
        doing = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 -- documented
        return [*map(str, self._in_flight()), *abandoned(), f"the main thread (in {_where(doing)})"]

    def _tasks(self) -> list[str]:
        """Return the tasks that `asyncio.run` waits for, or the threads when there are none."""
        tasks = asyncio.all_tasks(self._loop)
        others = [task for task in tasks if not name_of_work(task).endswith(_LOOPS_OWN)]
        handled = {work.task: str(work) for work in self._in_flight()}
        return sorted(handled.get(task) or name_of(task) for task in others) or _threads()

    def _speak(self) -> None:
        """Say what keeps the process, and end it."""
        names = self._verdict.get()
        if names is None:
            return
        left = ["something"]
        with suppress(Exception):
            left = names()
        with suppress(Exception):
            _log.critical("ending the process: %s did not stop", ", ".join(left))
        _flush_logs()  # before journals, which may take what time there is
        for each in list(_watching):
            with suppress(Exception):
                each._flush()  # noqa: SLF001 -- of this class
        _flush_logs()
        os._exit(1)


def _flush_logs() -> None:
    for write in (*logging.getLogger().handlers, sys.stdout, sys.stderr):
        with suppress(Exception):
            write.flush()


def _threads() -> list[str]:
    """Return the threads that the interpreter waits for, and what they do."""
    frames = sys._current_frames()  # noqa: SLF001 -- documented
    waited_for = [
        f"thread {thread.name} (in {_where(frames.get(thread.ident or 0))})"
        for thread in threading.enumerate()
        if not thread.daemon
        and thread is not threading.main_thread()
        and _WAITS_FOR_OTHERS not in thread.name
    ]
    return waited_for or ["the interpreter"]


def _where(frame: FrameType | None) -> str:
    return "?" if frame is None else frame.f_code.co_qualname
