"""Looks at the table: what is due, what others left behind, what this process has missed."""

import asyncio
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from db_manager import events as facts
from db_manager.delivery.behind import Behind
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.relay import STATES, Relay
from db_manager.delivery.table.claims import Claimed, Claims
from db_manager.delivery.table.members import Alone
from lifecycle.bus import EventBus

#: Most messages that one look brings, and that one look deletes.
_MOST: Final = 500
#: Seconds after a lost answer in which rows are looked for that are this process's and unknown to
#: it, because a COMMIT may still be on its way; and seconds between two such looks without a cause.
_LOST: Final = 60.0
_SELDOM: Final = 30.0


class Lookout:
    """Brings the relay what it does not know of.

    Args:
        relay: Sends.
        claims: The table.
        member: This process among others.
        senders: Numbers of the bots of this process, and that of a broker.
        config: The section [delivery].
        bus: Where it is told what was found.
        behind: Told what waits.
    """

    def __init__(
        self,
        relay: Relay,
        claims: Claims,
        member: Alone,
        senders: Collection[int],
        config: DeliveryConfig,
        bus: EventBus,
        behind: Behind,
    ) -> None:
        self._relay = relay
        self._claims = claims
        self._member = member
        self._senders = senders
        self._config = config
        self._bus = bus
        self._behind = behind
        self._searched_at = time.monotonic()
        self._looked_at = float("-inf")
        self._forgot_at, self._forgot_until = time.monotonic(), 0
        self._open, self._oldest = 0, 0.0

    def levels(self) -> dict[str, float]:
        """Return what is open and due in the table, and the part of it that is here."""
        return {"open": self._open, "oldest": self._oldest, **self._relay.levels()}

    async def run(self) -> None:
        """Begin, and go on until this is cancelled."""
        await self._relay.again.until_done(self._tell_unsafe)
        if not self._senders:  # a worker only waits for what others send
            await self._look_often()
        await self._relay.again.until_done(self._begin)
        async with asyncio.TaskGroup() as group:
            for work in (self._relay.mark(), self._look_often(), self._pulse()):
                group.create_task(work)

    async def _tell_unsafe(self) -> None:
        if self._bus.channel(facts.DeliveryUnsafe).handlers and (
            settings := await self._claims.unsafe_settings()
        ):
            self._bus.publish(facts.DeliveryUnsafe(settings=settings))

    async def _begin(self) -> None:
        if self._member.pause is None:  # what this process had in an earlier run is nobody's
            await self._recover()
        await self._member.join()

    async def _pulse(self) -> None:
        while (pause := self._member.pause) is not None:
            await asyncio.sleep(pause)
            await self._relay.again.until_done(self._member.pulse, longest=pause)

    async def _look_often(self) -> None:
        while True:
            await self._relay.again.until_done(self._look)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.poll):
                    await self._relay.wakes.wait()

    async def _look(self) -> None:
        relay = self._relay
        relay.wakes.clear()
        try:
            await self._search()
            lanes, relay.wanted = relay.wanted, set()
            if lanes and (me := relay.claims_as):
                self._take(await self._claims.claim_in(me, lanes))
            if time.monotonic() < self._looked_at + self._config.soonest:
                return
            if await self._member.judge():
                await self._recover()
            senders, most = relay.with_room(self._senders)
            if senders and (me := relay.claims_as):
                self._take(await self._claims.claim(me, senders, min(most, _MOST)))
        except BaseException:
            relay.lost()
            raise
        await self._settle_foreign()
        self._open, self._oldest = await self._claims.levels()
        self._behind.note("messages", self._open, self._oldest)
        await self._forget()
        self._looked_at = time.monotonic()

    def _take(self, rows: Iterable[Claimed]) -> None:
        for row in rows:
            self._relay.take(row)

    async def _recover(self) -> None:
        """Release what those had who are gone."""
        released = await self._claims.release()
        for row in released:
            if row["state"]:
                about = {"message": row["id"], "bot_id": row["bot_id"], "method": row["method"]}
                self._bus.publish(facts.MessageUnknown(**about))
        if count := sum(not row["state"] for row in released):
            self._bus.publish(facts.LanesRecovered(count=count))

    async def _search(self) -> None:
        """Look for rows that are this process's and unknown to it, after an answer was lost."""
        now = time.monotonic()
        seldom = now - self._relay.lost_at > _LOST and now - self._searched_at < _SELDOM
        if seldom or not self._member.is_sure:
            return
        # Units are not kept out: the connection that one has may be the one that this waits for, as
        # behind PgBouncer. What they write is theirs until they have ended, and marks wait.
        async with self._relay.marking:
            rows = await self._claims.mine(self._member.me)
            units = self._relay.committing.values()
            theirs = {number for numbers in units for number in numbers}
            self._take(row for row in rows if row.id not in theirs)
            self._searched_at = now

    async def _settle_foreign(self) -> None:
        """Tell those who wait for messages that other processes send."""
        wanted = {
            number: sending
            for number, sending in list(self._relay.sendings.items())
            if sending.is_awaited and number not in self._relay
        }
        found = await self._claims.look(wanted) if wanted else {}
        for number, sending in wanted.items():
            state, error = found.get(number, (None, ""))
            if state != 0:
                sending.settle("dropped" if state is None else STATES[state], None, error)

    async def _forget(self) -> None:
        """Delete what was sent long ago, a part at a time."""
        if time.monotonic() - self._forgot_at < _SELDOM:
            return
        last = await self._claims.forget(self._forgot_until, _MOST, self._config.keep_sent)
        self._forgot_until = last or 0
        if last is None:
            self._forgot_at = time.monotonic()
