"""The work in flight when an application stops: counted, waited for, cut at a deadline."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from lifecycle.errors import LifecycleError
from lifecycle.events import AppDrained
from lifecycle.hooks import PATIENCE


class Work:
    """A piece of work that a task does.

    Args:
        name: What it is, as `update 7`.
        task: The task.

    Attributes:
        handler: Who does it, as far as known.
        lingers: It is done, but its task still sends the answer: wait for that, never cancel it.
        ended: Done when nothing of it is left.
    """

    def __init__(self, name: str, task: asyncio.Task[Any]) -> None:
        self.name = name
        self.task = task
        self.handler = "no handler yet"
        self.lingers = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __str__(self) -> str:
        return f"{self.name} ({self.handler})"


class InFlight:
    """The work in flight, at most one piece a task.

    Attributes:
        draining: Set from the begin of the drain until work is taken again.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._work: dict[asyncio.Task[Any], Work] = {}
        self._closed = False
        self._hurried = False
        self._deadline: asyncio.Timeout | None = None

    def __len__(self) -> int:
        return len(self._work)

    def current(self) -> Work | None:
        """Return the work that the running task does."""
        return self._work.get(_current_task())

    @contextmanager
    def work(self, name: str) -> Iterator[Work]:
        """Count the block as one piece of work; inside another one it is a part of that.

        Args:
            name: What it is.

        Raises:
            LifecycleError: The drain is over, and the application stops.
        """
        if self._closed:
            raise LifecycleError(f"{name} is refused: the application is stopping")
        task = _current_task()
        work = Work(name, task)
        previous = self._work.get(task)
        if previous is not None:
            if not previous.lingers:
                yield work  # which nobody waits for: the whole of it is counted
                return
            task.remove_done_callback(self._task_ended)
            self._end(previous)
        self._work[task] = work
        try:
            yield work
        finally:
            if work.lingers:
                task.add_done_callback(self._task_ended)
            else:
                self._end(work)

    def open(self) -> None:
        """Take work again."""
        self._closed = self._hurried = False
        self.draining.clear()

    def hurry(self) -> None:
        """Let the deadline of the drain be now."""
        self._hurried = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def drain(self, deadline: float, record: Callable[[AppDrained], None]) -> None:
        """Wait for the work of the other tasks, cancel what is left, and take no more.

        Its own cancellation lets the deadline be now.

        Args:
            deadline: Seconds to wait.
            record: Called with what happened.
        """
        now = asyncio.get_running_loop().time
        begun = now()
        # A task that was made just now begins its work in this pause.
        await asyncio.sleep(0)
        waited = len(self._others())
        self.draining.set()
        try:
            async with asyncio.timeout(0 if self._hurried else deadline) as self._deadline:
                while others := self._others():
                    await asyncio.wait([work.ended for work in others])
        except TimeoutError:
            pass
        finally:
            self._deadline = None
            self._closed = True
            left = [work for work in self._others() if not work.lingers]
            for work in left:
                work.task.cancel()
            if left:
                await asyncio.wait([work.ended for work in left], timeout=PATIENCE)
            names = tuple(map(str, left))
            record(AppDrained(waited=waited, cancelled=names, duration=now() - begun))

    def _others(self) -> list[Work]:
        me = _current_task()
        return [work for task, work in self._work.items() if task is not me]

    def _end(self, work: Work) -> None:
        del self._work[work.task]
        work.ended.set_result(None)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._end(self._work[task])


def _current_task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())
