"""The fast runner: reused greenlets, and a wait for the end in the unit's own task."""

import asyncio
import time
from typing import Any

from sqlalchemy.util.concurrency import in_greenlet

from db_manager.running.fast.greenlets import Greenlets, Worker
from db_manager.running.fast.in_place import InPlace
from db_manager.running.fast.timers import CoarseTimers
from db_manager.running.plain import is_left, shield
from db_manager.running.port import Ending


def supported() -> bool:
    """Return True if SQLAlchemy recognises a `Worker` as one of its own greenlets."""
    return Worker().begin(in_greenlet) is True


class Fast(Greenlets):
    """Runs functions in reused greenlets, and ends a unit without an extra task when it can.

    Args:
        in_place: The unit's own task may wait for the driver, as it does for COMMIT; see `InPlace`.
    """

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self._in_place = in_place
        self._timers = CoarseTimers.current()

    async def finish(self, ending: Ending, patience: float) -> asyncio.CancelledError | None:
        """Start the end, and wait for the driver here; run what remains in a separate task."""
        interrupted, expired = None, False
        late_at = time.perf_counter() + patience
        worker = self.take()
        awaited = worker.begin(ending.finish)
        if self._in_place and _waits_for_driver(worker, ending, awaited):
            wait = InPlace()
            timer = self._timers.call_later(patience, _expire, ending, wait)
            while True:
                wait.is_commit = ending.awaits_commit()
                awaited = await worker.advance(awaited, wait.wait)
                if wait.expired or not _waits_for_driver(worker, ending, awaited):
                    break
            timer.cancel()
            interrupted, expired = wait.interrupted, wait.expired
        if worker.busy:  # more answers of the server are needed
            rest = _finish_alone(worker, awaited, ending)
            interrupted = (
                await shield(
                    rest,
                    max(0.0, late_at - time.perf_counter()),
                    expire=ending.expire,
                    give_up=ending.give_up,
                    cancelled=expired,
                )
                or interrupted
            )
            if is_left(rest):
                return interrupted  # its greenlet is abandoned with it
        if worker.busy:  # the loop is closing: the task was cancelled before it started
            await worker.cancel(awaited)
        self.give_back(worker)
        return interrupted


def _waits_for_driver(worker: Worker, ending: Ending, awaited: object) -> bool:
    """Return True if *awaited* is the driver's, and not that of somebody's listener."""
    return worker.busy and (ending.awaits_commit() or ending.is_statement(awaited))


def _expire(ending: Ending, wait: InPlace) -> None:
    ending.expire()
    wait.expire()


async def _finish_alone(worker: Worker, awaited: Any, ending: Ending) -> None:
    ending.moved()
    await worker.finish(awaited)
