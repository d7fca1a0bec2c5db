"""Sends what was committed: one message of a lane at a time, and marks in groups what was sent."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from aiogram import Bot

from db_manager.delivery.again import Patience
from db_manager.delivery.backlog import Backlog, sender_of
from db_manager.delivery.broker.publisher import Publisher
from db_manager.delivery.calls.courier import Courier, Delivered, Letter
from db_manager.delivery.calls.early import BY_RELAY
from db_manager.delivery.calls.files import has_files
from db_manager.delivery.calls.stored import StrangeMethodError
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.inbox.handling import CURRENT
from db_manager.delivery.table.claims import SENT, Claimed, Claims, KeptFile
from db_manager.delivery.table.members import Alone
from db_manager.engine.one_writer import GOES_FIRST
from db_manager.sending import Sending, SendingState
from lifecycle.bus import EventBus

#: Seconds between two looks whether others think this process dead, or whether all is sent.
_LOOK: Final = 0.05
#: What a message is called, by its state in the table.
STATES: Final[Sequence[SendingState]] = ("open", "sent", "dead", "unknown", "expired")


class Relay:
    """The messages that this process sends.

    Args:
        claims: The table.
        member: This process among others.
        bots: The bots of this process.
        config: The section [delivery].
        bus: Where it is told what becomes of messages.
        on_refused: Told whether a bot is refused.
        publisher: Where events go.

    Attributes:
        marking: Held while marks are written, which claim what comes next.
        committing: Messages of units that write them as claimed and have not ended, by unit.
        sendings: What somebody may wait for, by its number.
        wanted: Lanes that wait, and should not until the next look.
        behind: Lanes in which something waits for what this process sends.
        wakes: Set when there is something to look for.
        lost_at: When an answer was lost, on the clock of `time.monotonic`.
        again: Repeats statements.
    """

    def __init__(
        self,
        claims: Claims,
        member: Alone,
        bots: Mapping[int, Bot],
        config: DeliveryConfig,
        bus: EventBus,
        on_refused: Callable[[bool], None],
        publisher: Publisher | None = None,
    ) -> None:
        self.marking = asyncio.Lock()
        self.committing: dict[int, list[int]] = {}
        self.sendings: WeakValueDictionary[int, Sending] = WeakValueDictionary()
        self.wanted: set[str] = set()
        self.behind: set[str] = set()
        self.wakes = asyncio.Event()
        self.lost_at = float("-inf")
        self.again = Patience()
        self._claims = claims
        self._member = member
        self._courier = Courier(bots, config, bus, on_refused, self._files_of, publisher)
        self._backlog = Backlog(config.window)
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._in_flight: set[int] = set()
        self._delivered: list[Delivered] = []
        self._has_delivered = asyncio.Event()
        self._is_stopping = self._is_over = False

    # -- what it has ----------------------------------------------------------------------

    @property
    def claims_as(self) -> int:
        """As whom a unit claims what it writes; 0 is nobody."""
        may_claim = self._member.is_sure and not self._is_stopping
        return self._member.me if may_claim else 0

    def with_room(self, senders: Iterable[int]) -> tuple[list[int], int]:
        """Return those of *senders* of whom it may take more, and how many of each."""
        return self._backlog.with_room(senders)

    def __contains__(self, number: int) -> bool:
        return number in self._backlog

    def levels(self) -> dict[str, float]:
        """Return how many it has, and how many of them are sent or being sent and not marked."""
        return {"held": len(self._backlog), "window": self._backlog.in_windows}

    def take(self, row: Claimed) -> None:
        """Send *row*, which is claimed."""
        if self._is_over:  # others have it
            return
        known = self._backlog.get(row.id)
        if known is not None and known.owner == row.owner:
            return
        self._backlog.put(row)
        task = asyncio.create_task(self._deliver(row), name=f"message {row.id}")
        self._tasks[task] = row.id
        task.add_done_callback(self._tasks.__delitem__)

    def watch(self, sendings: Iterable[Sending]) -> None:
        """Let somebody wait for these."""
        for sending in sendings:
            before = self.sendings.get(sending.id)
            if before is not None and before is not sending:
                before.settle("dropped")  # its COMMIT was lost, and SQLite gives its number away
            self.sendings[sending.id] = sending

    def want(self, lanes: Collection[str]) -> None:
        """Look at *lanes* soon, or when what this process sends there has ended."""
        if not lanes:
            return
        mine = self._backlog.lanes()
        self.behind.update(lane for lane in lanes if lane in mine)
        free, _ = self.with_room({sender_of(lane) for lane in lanes})
        if wanted := {lane for lane in lanes if lane not in mine and sender_of(lane) in free}:
            self.wanted |= wanted
            self.wakes.set()

    def lost(self) -> None:
        """Note that an answer was lost: rows may be ours that are unknown here."""
        self.lost_at = time.monotonic()
        self.wakes.set()

    # -- one message ----------------------------------------------------------------------

    async def _deliver(self, row: Claimed) -> None:
        """Send *row* until it is over; its place in the window is free once it is marked."""
        BY_RELAY.set(True)
        CURRENT.set(None)  # units of a middleware of the session are none of the handler's
        letter, delivered = Letter(row), None
        # What was sent or is being sent, and is not marked, is bounded: a death repeats it.
        window = self._backlog.window(row.bot_id)
        while delivered is None:
            await self._courier.wait(letter)
            await window.acquire()
            try:
                if not await self._may_send(row):
                    self._backlog.drop(row)
                    return
                self._in_flight.add(row.id)
                delivered = await self._courier.send(letter)
            except StrangeMethodError:
                await self.again.until_done(partial(self._claims.leave_to_others, row))
                self._backlog.drop(row)
                return
            finally:
                self._in_flight.discard(row.id)
                if delivered is None:
                    window.release()
        sending = self.sendings.get(row.id)
        if sending is not None:
            ended = delivered.ended
            sending.settle(STATES[ended.state], ended.answer, ended.error)
        self._delivered.append(delivered)
        self._has_delivered.set()

    async def _files_of(self, row: Claimed) -> Sequence[KeptFile]:
        if not has_files(row.payload):
            return ()
        return await self.again.until_done(partial(self._claims.files, row.id))

    async def _may_send(self, row: Claimed) -> bool:
        """Wait until nobody can think this process dead; return whether *row* is its own then."""
        while not self._member.is_sure:  # noqa: ASYNC110 -- it depends on a clock
            await asyncio.sleep(_LOOK)
        mine = row.owner == self._member.me and self._backlog.get(row.id) is row
        return mine and not self._is_over

    # -- marks ----------------------------------------------------------------------------

    async def mark(self) -> None:
        """Write what was sent, forever: while one group is written the next gathers."""
        GOES_FIRST.set(True)  # a kill repeats what has no mark yet
        while True:
            await self._has_delivered.wait()
            await self._mark_group()

    async def _mark_group(self) -> None:
        self._has_delivered.clear()
        group, self._delivered = self._delivered, []
        if group:
            await self.again.until_done(partial(self._mark_once, group))

    async def _mark_once(self, group: Sequence[Delivered]) -> None:
        async with self.marking:
            may_claim = self._member.is_sure and not self._is_over
            lanes = {each.row.lane for each in group if may_claim and self._has_more(each.row)}
            before, self.behind = self.behind, set()
            try:
                following = await self._end(group, lanes)
            except BaseException:
                self.behind |= before
                self.lost()
                raise
            for each in group:
                self._backlog.drop(each.row)
                self._backlog.window(each.row.bot_id).release()
            for row in following:
                self.take(row)
            # What was committed before that statement began is claimed by it, and not what came
            # to these lanes meanwhile.
            late, self.behind = self.behind, before - {each.row.lane for each in group}
            self.want(late)

    async def _end(self, group: Sequence[Delivered], lanes: Collection[str]) -> list[Claimed]:
        """Write what became of *group*; return what is claimed in *lanes*."""
        rows = [each.row_of_end() for each in group]
        sent = [each.row for each in group if each.ended.state == SENT]
        with_files = [row.id for row in sent if has_files(row.payload)]
        return await self._claims.end(self._member.me, rows, lanes, with_files)

    def _has_more(self, row: Claimed) -> bool:
        """Return True if something may wait behind *row*."""
        return self._member.pause is not None or row.lane in self.behind or row.age > 0

    # -- the end --------------------------------------------------------------------------

    async def stop(self, sending: float, waiting: float) -> None:
        """Send what can be sent in time, and let others have the rest.

        Args:
            sending: Seconds in which messages are still sent.
            waiting: Seconds after that to wait for the answers: what is cut off comes twice.
        """
        self._is_stopping = True
        await self._wait_until(lambda: not self._backlog, sending)
        self._is_over = True
        for task, number in list(self._tasks.items()):
            if number not in self._in_flight:
                task.cancel()
        await self._wait_until(lambda: not self._tasks, waiting)
        for task in list(self._tasks):
            task.cancel()
        await self._wait_until(lambda: not self._tasks, _LOOK)
        await self._mark_group()
        await self._claims.give_back(self._member.me)
        await self._member.leave()

    def die(self) -> None:
        """Send and take nothing any more, and note nothing: what a death is, for tests of it."""
        self._is_stopping = self._is_over = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._backlog.clear()
        self._delivered.clear()

    async def leave_behind(self) -> None:
        """Let others have at once what a death leaves, without waiting for the lease."""
        await self._member.leave()
        await self._claims.release()

    async def _wait_until(self, holds: Callable[[], bool], deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while not holds():  # noqa: ASYNC110 -- it is the end of many things, of which some begin meanwhile
                    await asyncio.sleep(_LOOK / 5)
