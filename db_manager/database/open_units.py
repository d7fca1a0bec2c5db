"""The open units, at most one per task: warnings about slow ones, and draining."""

import asyncio
import time
from contextvars import Context
from typing import Any

from db_manager.database.callbacks import report_failure
from db_manager.database.open_unit import OpenUnit
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.safe_text import said_last
from db_manager.errors import UnitOfWorkStateError
from db_manager.events import DatabaseDrained, UnitSlow
from lifecycle.bus import EventBus
from lifecycle.correlation import set_correlation


class OpenUnits(dict[asyncio.Task[Any], OpenUnit]):
    """The open unit of each task: a task has at most one.

    Args:
        dialect: The dialect of their database.
        slow_unit: Age in seconds at which a warning is published.
        bus: Where warnings and failed callbacks are published.
        database: What events call their database.
    """

    def __init__(
        self, dialect: Dialect, slow_unit: float, bus: EventBus, database: str = ""
    ) -> None:
        super().__init__()
        self.database = database
        self._dialect = dialect
        self._slow_unit = slow_unit
        self._bus = bus
        self._slow = bus.channel(UnitSlow)
        #: Set when none is left; there only while somebody waits for that.
        self.idle: asyncio.Event | None = None
        #: The timer of the next look at them.
        self.watch: asyncio.TimerHandle | None = None
        #: Tasks in which the callbacks of abandoned units run.
        self._consequences: set[asyncio.Task[None]] = set()

    def second(self, first: OpenUnit) -> UnitOfWorkStateError:
        """Return the error of a second unit in the task of *first*, which is open."""
        return UnitOfWorkStateError(
            first.state,
            f"this task has a unit of work open already, opened at {first.place}, and a second one "
            f"could wait for the connection that the first one holds",
            "pass the open unit on, use its savepoint(), end it first, or let this one be a part "
            'of it, with nested="join" or nested="savepoint"',
        )

    def holders_but(self, waiter: OpenUnit) -> list[str]:
        """Describe the units that hold a connection, except *waiter*; oldest first."""
        holders = [
            unit for unit in self.values() if unit is not waiter and unit.checked_out is not None
        ]
        holders.sort(key=lambda unit: unit.began_at)
        return [unit.describe(self._dialect) for unit in holders]

    # -- watching -------------------------------------------------------------------------

    def start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after units from now on, until there is none."""
        self._watch_in(self._slow_unit, loop)

    def _watch_in(self, delay: float, loop: asyncio.AbstractEventLoop) -> None:
        # In an empty context: the timer would keep the context of its first caller alive.
        self.watch = loop.call_later(delay, self._look, loop, context=Context())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watch = None
        if not self:
            return
        now = time.perf_counter()
        for task, unit in tuple(self.items()):
            if task.done():
                self._abandon(task, unit)
            elif not unit.warned and now - unit.began_at >= self._slow_unit:
                unit.warned = True
                if self._slow.handlers:
                    self._warn(unit, now)
        self._watch_in(self._slow_unit / 2, loop)

    def _warn(self, unit: OpenUnit, now: float) -> None:
        self._slow.publish(
            UnitSlow(
                unit=unit.number,
                database=self.database,
                duration=now - unit.began_at,
                holds_connection=unit.checked_out is not None,
                statement=said_last(unit.statement, self._dialect)[:200],
                correlation=unit.correlation,
            )
        )

    def forget_loop(self) -> None:
        """Forget the timer and the tasks of an event loop that is gone."""
        self.watch, self._consequences = None, set()

    def unwatch(self) -> None:
        """Stop watching until the next unit."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    # -- units whose tasks have ended -----------------------------------------------------

    def abandon(self) -> None:
        """Roll back units whose tasks have ended."""
        for task, unit in tuple(self.items()):
            if task.done():
                self._abandon(task, unit)

    def _abandon(self, task: asyncio.Task[Any], unit: OpenUnit) -> None:
        """End *unit*, whose task has ended; its callbacks run in a new task."""
        try:
            unit.abandon()
        except Exception as error:  # noqa: BLE001 -- one unit must not stop the watch over the others
            what = "the end of an abandoned unit"
            report_failure(what, unit.number, self._bus, error, database=self.database)
        finally:
            self.pop(task, None)
            self.look_whether_idle()
        if unit.state.is_final:
            loop = asyncio.get_running_loop()
            running = loop.create_task(_run_callbacks(unit), context=Context())
            self._consequences.add(running)
            running.add_done_callback(self._consequences.discard)

    async def wait_for_callbacks(self) -> None:
        """Wait for the callbacks of abandoned units."""
        if self._consequences:
            await asyncio.wait(self._consequences)

    # -- draining -------------------------------------------------------------------------

    async def drain(self, deadline: float, rollback_time: float) -> DatabaseDrained:
        """Wait for all units to end, and cancel the rest.

        Args:
            deadline: Longest wait for units to end by themselves, in seconds.
            rollback_time: Longest wait for the cancelled rest to roll back, in seconds.

        Returns:
            The number of open units, and those that had to be cancelled.
        """
        started = time.perf_counter()
        waited = len(self)
        self.abandon()
        await self._wait_idle(deadline)
        self.abandon()
        rest = {task: unit for task, unit in self.items() if task is not asyncio.current_task()}
        named = tuple(unit.describe(self._dialect) for unit in rest.values())
        for task in rest:
            task.cancel()
        if rest:
            await self._wait_idle(rollback_time)
        return DatabaseDrained(
            waited=waited,
            cancelled=named,
            duration=time.perf_counter() - started,
            database=self.database,
        )

    def look_whether_idle(self) -> None:
        """Wake who waits for all of them to end, when they have."""
        if self.idle is not None and not self:
            self.idle.set()

    async def _wait_idle(self, seconds: float) -> None:
        if not self:
            return
        self.idle = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self.idle.wait()
        except TimeoutError:
            pass
        finally:
            self.idle = None


async def _run_callbacks(unit: OpenUnit) -> None:
    set_correlation(unit.correlation)
    # What it returns was reported; there is no block in which to raise it.
    await unit.run_callbacks()
