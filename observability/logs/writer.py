"""Writes lines in a thread, so that a stream that blocks or breaks harms nothing else."""

import atexit
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Final, TextIO
from weakref import WeakSet

#: Lines that may wait for a blocked stream; further ones are lost, and counted.
CAPACITY: Final = 10_000

#: Seconds between two writes while lines keep coming, so that they are written in batches: each
#: write takes the interpreter from the event loop for a moment (docs/performance.md).
_PAUSE: Final = 0.05

#: A line, or a function that makes it.
Line = str | Callable[[], str]

_writers: "WeakSet[LineWriter]" = WeakSet()


class LineWriter:
    """Takes lines from any thread and writes them in order; `write` never blocks or raises.

    A line is written at once while the thread is idle.

    Args:
        stream: Where the lines are written.
        report: Makes the line that reports how many were lost.
        capacity: Lines that may wait.
    """

    def __init__(
        self, stream: TextIO, report: Callable[[int], str], *, capacity: int = CAPACITY
    ) -> None:
        #: Number of lines that could not be written.
        self.lost = 0
        self._reported = 0
        self.stream = stream
        self._report = report
        self._capacity = capacity
        self._closed = False
        self.forget()
        _writers.add(self)

    def forget(self) -> None:
        """Start over without thread and lines, in a forked process: it inherits no threads."""
        self._waiting: deque[Line | Event] = deque()
        self._thread: Thread | None = None
        self._starting = Lock()
        self._idle = False
        self._wake = Event()
        self._closing = Event()

    def write(self, line: Line) -> None:
        """Write *line*, soon.

        Args:
            line: The text without a line break, or a function that makes it: called in the thread,
                in batches, which costs less than one call at a time.
        """
        if self._closed and not self._alive():
            self._put([line])  # a late line: the thread has ended
            return
        if self._closed or len(self._waiting) >= self._capacity:
            self.lost += 1
            return
        self._waiting.append(line)
        if self._thread is None:
            self._start()
        elif self._idle:
            self._idle = False
            self._wake.set()

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until every line so far is written.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False after a timeout.
        """
        if not self._alive():
            return not self._waiting
        reached = Event()
        self._waiting.append(reached)
        self._wake.set()
        return reached.wait(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Write the waiting lines and end the thread.

        Args:
            timeout: Seconds to wait for the stream; lines that are not written by then are lost.
        """
        self._closed = True
        self._closing.set()
        self._wake.set()
        atexit.unregister(self.close)
        if self._thread is not None:
            self._thread.join(timeout)

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            thread = Thread(target=self._work, name="log lines", daemon=True)
            self._wake.set()
            try:
                thread.start()
            except RuntimeError:  # at exit of the interpreter no thread can start
                self._closed = True
                self._put([self._waiting.popleft() for _ in range(len(self._waiting))])
            else:
                self._thread = thread
                atexit.register(self.close)

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self._put([self._waiting.popleft() for _ in range(len(self._waiting))])
                self._closing.wait(_PAUSE)
            if self._closing.is_set():
                self._put([], last=True)
                return
            self._idle = True
            if self._waiting:  # it came before `_idle` was set, and did not wake us
                self._wake.set()

    def _put(self, taken: Sequence[Line | Event], *, last: bool = False) -> None:
        lines = self._made(taken)
        lost = self.lost - self._reported
        if lines or (last and lost):
            report = [self._report(lost)] if lost else []
            try:
                self._out("\n".join((*report, *lines, "")))
            except Exception:  # noqa: BLE001 -- the stream may be any object
                self.lost += len(lines)
            else:
                self._reported += lost
        for each in taken:
            if isinstance(each, Event):
                each.set()

    def _made(self, taken: Sequence[Line | Event]) -> list[str]:
        lines = []
        for each in taken:
            if isinstance(each, str):
                lines.append(each)
            elif not isinstance(each, Event):
                try:
                    lines.append(each())
                except Exception:  # noqa: BLE001 -- the line is lost, and counted; the others are written
                    self.lost += 1
        return lines

    def _out(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()


def _forget_all() -> None:
    for writer in _writers:
        writer.forget()


with suppress(AttributeError):  # a platform without fork
    os.register_at_fork(after_in_child=_forget_all)
