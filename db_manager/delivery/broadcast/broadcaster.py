"""Lets the messages of broadcasts be written at a rate, and counts what became of them."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiogram import Bot
from aiogram.exceptions import TelegramForbiddenError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager import events as facts
from db_manager.delivery.broadcast.broadcast_sql import broadcast_statements
from db_manager.delivery.broadcast.broadcast_tables import (
    CANCELLED,
    ON_ITS_WAY,
    OUTCOMES,
    RUNNING,
    Outcome,
)
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.relay import Relay
from db_manager.delivery.table.at_once import AtOnce
from db_manager.delivery.table.claims import DEAD, OPEN, SENT, UNKNOWN, Claimed, Claims
from db_manager.dialects.known import dialect_of
from lifecycle.bus import EventBus

#: Seconds between two turns of a broadcast, and between two that only count.
_TURN: Final = 0.2
_SLOW_TURN: Final = 0.5
#: Seconds of the rate that may be on their way, and most messages: a bot that must wait gets no
#: more, and what a process holds has room for replies.
_AHEAD: Final = 2.0
_MOST_AHEAD: Final = 250
#: Where chats begin.
_FIRST: Final = -(2**63)
#: Seconds between two looks for what is to be forgotten, and most rows of one.
_SELDOM: Final = 30.0
_MOST: Final = 500


@dataclass(slots=True)
class _Turn:
    """What one turn of a broadcast does.

    Args:
        row: The broadcast, as it was before.
        open: How many messages are on their way.
        counts: What became of others.
        claimed: Messages that this process sends.
        is_over: Nothing is left to be done.
    """

    row: Any
    open: int = 0
    counts: Counter[Outcome] = field(default_factory=Counter)
    claimed: list[Claimed] = field(default_factory=list)
    is_over: bool = False

    @property
    def before(self) -> int:
        """How many were counted before it."""
        row = self.row
        return int(row.sent + row.blocked + row.failed + row.unknown)


class Broadcaster:
    """Takes turns with those of other processes.

    In a turn a few messages are written as if they were those of a unit; that is all that
    distinguishes a broadcast from a loop over `uow.send`. Who has locked its row has the turn.

    Args:
        engine: The engine of what is not a part of a unit.
        claims: The table of messages.
        relay: Sends them.
        bots: The bots of this process.
        config: The section [delivery].
        bus: Where it is told how far a broadcast has got.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        claims: Claims,
        relay: Relay,
        bots: Mapping[int, Bot],
        config: DeliveryConfig,
        bus: EventBus,
    ) -> None:
        self._engine = engine
        self._at_once = AtOnce(engine)
        self._sql = broadcast_statements(dialect_of(engine.dialect))
        self._claims = claims
        self._relay = relay
        self._bots = bots
        self._config = config
        self._bus = bus
        self._size = max(1, round(config.bulk_rate * _TURN))
        self._turning = asyncio.Lock()
        self._is_over = False
        self._forgot_at = time.monotonic()

    async def run(self) -> None:
        """Go on until this is cancelled."""
        while not self._is_over:
            wait = await self._relay.again.until_done(self._look)
            await asyncio.sleep(min(wait, self._config.poll))

    async def stop(self) -> None:
        """End after the turn that is being taken."""
        self._is_over = True
        async with self._turning:
            pass

    async def _look(self) -> float:
        """Take a turn if one is due; return the seconds until one may be."""
        bots = {"bots": json.dumps([{"bot_id": bot} for bot in self._bots])}
        [(wait,)] = await self._at_once.rows(self._sql["soon"], bots)
        if wait is None or wait > 0:
            await self._forget()
            return self._config.poll if wait is None else float(wait)
        async with self._turning:
            has_turned = not self._is_over and await self._take_turn(bots)
        return 0.0 if has_turned else _TURN / 4

    async def _take_turn(self, bots: Mapping[str, str]) -> bool:
        """Take the turn of the broadcast that waits longest; return False if others have it."""
        relay, turn = self._relay, None
        try:
            async with self._engine.begin() as connection:
                row = (await connection.execute(self._sql["due"], bots)).one_or_none()
                if row is None:
                    return False
                turn = _Turn(row)
                await self._settle(connection, turn)
                await self._go_on(connection, turn)
                # A search for what is mine must not take them before they are handed over here.
                relay.committing[0] = [each.id for each in turn.claimed]
            for each in turn.claimed:
                relay.take(each)
        except BaseException:
            relay.lost()  # the COMMIT may have come through
            raise
        finally:
            relay.committing.pop(0, None)
        self._tell(turn)
        return True

    async def _settle(self, connection: AsyncConnection, turn: _Turn) -> None:
        """Count what became of messages on their way."""
        about = {"id": turn.row.id}
        found = (await connection.execute(self._sql["on_its_way"], about)).all()
        ended = []
        for row in found:
            if row.state == OPEN:
                turn.open += 1
                continue
            outcome, error = _outcome(row.state, row.error or "")
            turn.counts[outcome] += 1
            state = ON_ITS_WAY + 1 + OUTCOMES.index(outcome)
            ended.append(
                {
                    "chat_id": row.chat_id,
                    "message": row.message,
                    "state": state,
                    "message_id": row.message_id,
                    "error": error or None,
                }
            )
        if ended:
            given = {"ended": json.dumps(ended)}
            await connection.execute(self._sql["settle"], about | given)
            await connection.execute(self._sql["erase"], given)

    async def _go_on(self, connection: AsyncConnection, turn: _Turn) -> None:
        """Write the next messages, and say when the turn after this one is."""
        row, rate = turn.row, self._config.bulk_rate
        reached = _FIRST if row.reached is None else row.reached
        ahead = max(self._size, min(round(rate * _AHEAD), _MOST_AHEAD))
        most = min(self._size, ahead - turn.open)
        chats: Sequence[Any] = ()
        if row.state == RUNNING and most > 0:
            given = {"id": row.id, "reached": reached, "most": most}
            chats = (await connection.execute(self._sql["next"], given)).all()
        if chats:
            await self._write(connection, turn, chats)
            reached = chats[-1].chat_id
        counts: dict[str, int] = {name: turn.counts[name] for name in OUTCOMES}
        pause = len(chats) / rate * row.sharing if chats else _SLOW_TURN
        go_on = {"id": row.id, "reached": reached, "pause": pause, **counts}
        await connection.execute(self._sql["go_on"], go_on)
        if chats or turn.open or (row.state == RUNNING and most <= 0):
            return
        turn.is_over = row.state in {RUNNING, CANCELLED}
        await connection.execute(self._sql["end" if turn.is_over else "rest"], {"id": row.id})

    async def _write(self, connection: AsyncConnection, turn: _Turn, chats: Sequence[Any]) -> None:
        row, relay = turn.row, self._relay
        fields = json.loads(row.payload)
        rows: list[dict[str, Any]] = []
        for chat_id, own in chats:
            given = {
                name: value for name, value in json.loads(own or "{}").items() if value is not None
            }
            rows.append(
                {
                    "bot_id": row.bot_id,
                    "lane": f"{row.bot_id}:{chat_id}",
                    "method": row.method,
                    "payload": json.dumps({**fields, **given, "chat_id": chat_id}),
                    "once": bool(row.once),
                    "due": None,
                }
            )
        me = relay.claims_as
        bots, most = relay.with_room(self._bots)
        written, _ = await self._claims.write(connection, rows, me, most, bots)
        moved = [
            {"chat_id": chat_id, "message": number}
            for (chat_id, _), (number, _) in zip(chats, written, strict=True)
        ]
        given = {"id": row.id, "moved": json.dumps(moved)}
        await connection.execute(self._sql["move"], given)
        turn.claimed = [
            Claimed.as_written(each, number, me)
            for each, (number, is_claimed) in zip(rows, written, strict=True)
            if is_claimed
        ]

    def _tell(self, turn: _Turn) -> None:
        """Say how far it has got, at each hundredth of it."""
        row, after = turn.row, turn.before + turn.counts.total()
        about: dict[str, Any] = {"broadcast": row.id, "bot_id": row.bot_id, "total": row.total}
        about |= {name: getattr(row, name) + turn.counts[name] for name in OUTCOMES}
        if turn.is_over:
            cancelled = row.state == CANCELLED
            self._bus.publish(facts.BroadcastEnded(**about, cancelled=cancelled))
        elif row.total and 100 * turn.before // row.total != 100 * after // row.total:
            self._bus.publish(facts.BroadcastProgress(**about))

    async def _forget(self) -> None:
        """Delete a part of the chats that were reached long ago."""
        if time.monotonic() - self._forgot_at < _SELDOM:
            return
        given = {"keep": self._config.keep_sent, "most": _MOST}
        if await self._at_once.count(self._sql["forget"], given) < _MOST:
            self._forgot_at = time.monotonic()


def _outcome(state: int | None, error: str) -> tuple[Outcome, str]:
    """Return what the end of a message is for a chat, and why.

    Args:
        state: That of its row; None when it is not there any more.
        error: What Telegram said, after the class of the error.
    """
    if state == SENT:
        return "sent", ""
    if state == UNKNOWN:
        return "unknown", error
    if state == DEAD and error.partition(":")[0] == TelegramForbiddenError.__name__:
        return "blocked", error
    return "failed", error if state is not None else "its message was dropped by hand"
