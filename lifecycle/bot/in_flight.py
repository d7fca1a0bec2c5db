"""The updates in flight when an application stops: counted, waited for, cut at a deadline."""

import asyncio
from collections.abc import Callable
from typing import Any

from lifecycle.errors import LifecycleError
from lifecycle.events import AppDrained
from lifecycle.tasks import PATIENCE


class Work:
    """An update that a task handles.

    Args:
        update_id: Telegram's id of it.
        task: The task.

    Attributes:
        handler: Who does it, as far as known.
        lingers: It is done, but its task still sends the answer: wait for that, never cancel it.
    """

    __slots__ = ("_ended", "handler", "lingers", "task", "update_id")

    def __init__(self, update_id: int, task: asyncio.Task[Any]) -> None:
        self.update_id = update_id
        self.task = task
        self.handler = "no handler yet"
        self.lingers = False
        self._ended: asyncio.Future[None] | None = None

    def ended(self) -> asyncio.Future[None]:
        """Return a future that completes with the update; ask while it is in flight."""
        if self._ended is None:  # few are ever waited for
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def end(self) -> None:
        """Say that nothing is left."""
        if self._ended is not None:
            self._ended.set_result(None)

    def __str__(self) -> str:
        return f"update {self.update_id} ({self.handler})"


class InFlight:
    """The work in flight, at most one piece a task.

    Attributes:
        draining: Set from the start of the drain until work is accepted again.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._work: dict[asyncio.Task[Any], Work] = {}
        self._closed = False
        self._hurried = False
        self._deadline: asyncio.Timeout | None = None

    def __len__(self) -> int:
        return len(self._work)

    def work(self) -> list[Work]:
        """Return all of it."""
        return list(self._work.values())

    def current(self) -> Work | None:
        """Return the work that the running task does."""
        task = asyncio.current_task()
        return None if task is None else self._work.get(task)

    def begin(self, update_id: int) -> Work | None:
        """Count the update that the running task handles from now on.

        Args:
            update_id: Telegram's id of it.

        Returns:
            The work; None inside of other work, which it is a part of.

        Raises:
            LifecycleError: The drain is over, and the application stops.
        """
        if self._closed:
            raise LifecycleError(f"update {update_id} is refused: the application is stopping")
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # in a task
        previous = self._work.get(task)
        if previous is not None:
            if not previous.lingers:
                return None
            task.remove_done_callback(self._task_ended)
            self._end(previous)
        work = self._work[task] = Work(update_id, task)
        return work

    def end(self, work: Work, *, lingers: bool) -> None:
        """Count it no more.

        Args:
            work: What `begin` returned.
            lingers: Its task still sends the answer: it counts until that ends.
        """
        work.lingers = lingers
        if lingers:
            work.task.add_done_callback(self._task_ended)
        else:
            self._end(work)

    def open(self) -> None:
        """Take work again."""
        self._closed = self._hurried = False
        self.draining.clear()

    def hurry(self) -> None:
        """End the drain now."""
        self._hurried = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def drain(self, deadline: float, record: Callable[[AppDrained], None]) -> None:
        """Wait for the work of the other tasks, cancel what is left, and take no more.

        Its own cancellation ends the waiting at once.

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
                    await asyncio.wait([work.ended() for work in others])
        except TimeoutError:
            pass
        finally:
            self._deadline = None
            self._closed = True
            left = [work for work in self._others() if not work.lingers]
            for work in left:
                work.task.cancel()
            if left:
                await asyncio.wait([work.ended() for work in left], timeout=PATIENCE)
            names = tuple(map(str, left))
            record(AppDrained(waited=waited, cancelled=names, duration=now() - begun))

    def _others(self) -> list[Work]:
        me = asyncio.current_task()
        return [work for task, work in self._work.items() if task is not me]

    def _end(self, work: Work) -> None:
        del self._work[work.task]
        work.end()

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._end(self._work[task])
