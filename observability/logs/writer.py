"""Writes lines in a thread of its own: a stream that blocks or breaks harms nobody else."""

import atexit
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Final, TextIO
from weakref import WeakSet

#: Lines that may wait for a stream that blocks; more are lost, and counted.
CAPACITY: Final = 10_000

#: Seconds between two writes while lines keep coming: they go out together, at one price. Each
#: write takes the interpreter from the event loop for a moment (docs/performance.md).
_PAUSE: Final = 0.05

#: A line, or what makes it.
Line = str | Callable[[], str]

_writers: "WeakSet[LineWriter]" = WeakSet()


class LineWriter:
    """Takes lines from any thread and writes them in order; `write` never blocks, never raises.

    A line that finds the thread idle is written at once.

    Args:
        stream: Where the lines go.
        report: Makes the line that says how many were lost.
        capacity: Lines that may wait.
    """

    def __init__(
        self, stream: TextIO, report: Callable[[int], str], *, capacity: int = CAPACITY
    ) -> None:
        #: Lines that the stream did not take.
        self.lost = 0
        self._reported = 0
        self.stream = stream
        self._report = report
        self._capacity = capacity
        self._closed = False
        self.forget()
        _writers.add(self)

    def forget(self) -> None:
        """Begin anew, without a thread and without lines: a forked process has neither."""
        self._waiting: deque[Line | Event] = deque()
        self._thread: Thread | None = None
        self._starting = Lock()
        self._idle = False
        self._wake = Event()
        self._closing = Event()

    def write(self, line: Line) -> None:
        """Take *line*, which has no line break at its end.

        Args:
            line: The text, or what makes it: that is called in the thread, many at a time, which
                costs less than one here and one there.
        """
        if self._closed and not self._alive():
            self._put([line])  # a straggler: there is no thread any more
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
        """Wait until every line that was taken before is written.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False when time was over before.
        """
        if not self._alive():
            return not self._waiting
        reached = Event()
        self._waiting.append(reached)
        self._wake.set()
        return reached.wait(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits and end the thread.

        Args:
            timeout: Seconds to wait for the stream; what it has not taken then is lost.
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
            except RuntimeError:  # the interpreter ends: no thread starts any more
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
            if self._waiting:  # one came while we were not idle yet: it did not wake us
                self._wake.set()

    def _put(self, taken: Sequence[Line | Event], *, last: bool = False) -> None:
        lines = self._made(taken)
        lost = self.lost - self._reported
        if lines or (last and lost):
            report = [self._report(lost)] if lost else []
            try:
                self._out("\n".join((*report, *lines, "")))
            except Exception:  # noqa: BLE001 -- a stream may be anybody's object
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
                except Exception:  # noqa: BLE001 -- one line is lost, and counted; the others go on
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
