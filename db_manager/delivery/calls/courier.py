"""Brings one message to Telegram, or one event to the broker, and says what became of it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiogram import Bot
from aiogram.methods import TelegramMethod

from db_manager import events as facts
from db_manager.delivery.broker.outgoing import BROKER
from db_manager.delivery.broker.publisher import Publisher, RefusedEventError
from db_manager.delivery.calls.answers import (
    EXPIRES,
    FIRST_WAIT,
    LONGEST_WAIT,
    Again,
    Ended,
    meaning,
)
from db_manager.delivery.calls.stored import StrangeMethodError, loaded
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.table.claims import DEAD, EXPIRED, SENT, UNKNOWN, Claimed, KeptFile
from lifecycle.bus import EventBus
from lifecycle.error_text import tell

#: So many chats that are told to wait within a second mean the bot.
_CHATS_OF_A_BOT: Final = 3


@dataclass(slots=True)
class Letter:
    """A message while it is tried.

    Args:
        row: The row.
        call: The call; None until it is read.
        taken_at: When it was taken, on the clock of `time.monotonic`.
        attempts: How often it was sent.
        failures: How often by an error that would stay.
        free_at: Not before.
        pause: Next wait, when nobody says how long.
    """

    row: Claimed
    taken_at: float = field(default_factory=time.monotonic)
    call: TelegramMethod[Any] | None = field(default=None, repr=False)
    attempts: int = 0
    failures: int = 0
    free_at: float = 0.0
    pause: float = FIRST_WAIT

    @property
    def age(self) -> float:
        """Seconds since it was due."""
        return self.row.age + time.monotonic() - self.taken_at


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message that is over.

    Args:
        row: The row.
        ended: What became of it.
        attempts: How often it was sent.
    """

    row: Claimed
    ended: Ended
    attempts: int

    def row_of_end(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {
            "id": self.row.id,
            "owner": self.row.owner,
            "state": self.ended.state,
            "message_id": self.ended.message_id,
            "error": self.ended.error or None,
            "attempts": self.attempts,
        }


class Courier:
    """Sends messages by the bots of this process.

    Args:
        bots: The bots.
        config: The section [delivery].
        bus: Where it is told what becomes of messages.
        on_refused: Told whether a bot is refused.
        files_of: Returns the files of a message, however long that takes.
        publisher: Where events go.
    """

    def __init__(
        self,
        bots: Mapping[int, Bot],
        config: DeliveryConfig,
        bus: EventBus,
        on_refused: Callable[[bool], None],
        files_of: Callable[[Claimed], Awaitable[Sequence[KeptFile]]],
        publisher: Publisher | None,
    ) -> None:
        self._bots = bots
        self._config = config
        self._publish = bus.publish
        self._sent = bus.channel(facts.MessageSent)
        self._on_refused = on_refused
        self._files_of = files_of
        self._publisher = publisher
        self._refused: set[int] = set()
        #: When a bot may send again, and which lanes were told to wait of late.
        self._free_at: dict[int, float] = {}
        self._told: deque[tuple[float, str]] = deque(maxlen=20)

    async def wait(self, letter: Letter) -> None:
        """Wait until it may be sent."""
        while True:
            free_at = max(letter.free_at, self._free_at.get(letter.row.bot_id, 0.0))
            if (wait := free_at - time.monotonic()) <= 0:
                return
            await asyncio.sleep(wait)

    async def send(self, letter: Letter) -> Delivered | None:
        """Send it once.

        Returns:
            What became of it; None when it is to be sent again, after `wait`.

        Raises:
            CancelledError: The process stops, and it may be sent again.
            StrangeMethodError: A newer release has to send it.
        """
        row = letter.row
        publisher = self._publisher if row.bot_id == BROKER else None
        late = letter.age - EXPIRES.get("" if publisher else row.method, float("inf"))
        if late > 0:
            return self._end(letter, Ended(state=EXPIRED, error="expired", told="expired"))
        files = await self._files_of(row) if letter.call is None else ()
        letter.attempts += 1
        try:
            answer = await (publisher.publish(row) if publisher else self._call(letter, files))
        except StrangeMethodError as error:
            self._publish_retried(letter, 0.0, tell(error))
            raise
        except asyncio.CancelledError:
            if not row.once:
                raise
            return self._end(letter, Ended(state=UNKNOWN, told="the process stopped"))
        except RefusedEventError as error:
            told = tell(error.__cause__ or error)
            return self._end(letter, Ended(state=DEAD, error=told, told=told))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the message's
            repeated = letter.attempts > 1 or row.age > 0
            said = (
                Again(told=tell(error))
                if publisher
                else meaning(error, once=row.once, repeated=repeated)
            )
            return self._again(letter, said) if isinstance(said, Again) else self._end(letter, said)
        self._note_refused(row.bot_id, refused=False)
        return self._end(letter, Ended(state=SENT, answer=answer))

    async def _call(self, letter: Letter, files: Sequence[KeptFile]) -> Any:
        """Return Telegram's answer."""
        row = letter.row
        bot = self._bots[row.bot_id]
        if letter.call is None:
            letter.call = loaded(row.method, row.payload, bot, files)
        return await bot(letter.call)

    def _again(self, letter: Letter, said: Again) -> Delivered | None:
        """Note when it is sent again; return what became of it, if that is not to be."""
        row, config = letter.row, self._config
        letter.failures += said.counts == "attempt"
        over = said.counts != "never" and letter.age > config.retry_for
        if over or letter.failures >= config.attempts:
            return self._end(letter, Ended(state=DEAD, error=said.told, told=said.told))
        if said.chat is not None:
            self._migrate(letter, said.chat)
        wait = letter.pause if said.wait is None else said.wait
        if said.wait is None:
            letter.pause = min(2 * letter.pause, LONGEST_WAIT)
        letter.free_at = time.monotonic() + wait
        if said.refused:
            self._free_at[row.bot_id] = letter.free_at
            self._note_refused(row.bot_id, refused=True)
        elif said.limited:
            self._slow_down(row, letter.free_at)
        self._publish_retried(letter, wait, said.told)
        return None

    def _publish_retried(self, letter: Letter, wait: float, error: str) -> None:
        row = letter.row
        about: dict[str, Any] = {"message": row.id, "bot_id": row.bot_id, "method": row.method}
        self._publish(
            facts.MessageRetried(**about, attempts=letter.attempts, wait=wait, error=error)
        )

    def _slow_down(self, row: Claimed, free_at: float) -> None:
        """Let the whole bot wait when several of its chats are told to within a second."""
        now = time.monotonic()
        self._told.append((now, row.lane))
        prefix = f"{row.bot_id}:"
        lanes = {lane for at, lane in self._told if now - at < 1 and lane.startswith(prefix)}
        if len(lanes) >= _CHATS_OF_A_BOT:
            self._free_at[row.bot_id] = max(free_at, self._free_at.get(row.bot_id, 0.0))

    def _migrate(self, letter: Letter, chat: int) -> None:
        call: Any = letter.call
        before = call.chat_id
        letter.call = call.model_copy(update={"chat_id": chat})
        self._publish(facts.ChatMigrated(bot_id=letter.row.bot_id, chat=before, to=chat))

    def _note_refused(self, bot_id: int, *, refused: bool) -> None:
        before = bool(self._refused)
        (self._refused.add if refused else self._refused.discard)(bot_id)
        if before != bool(self._refused):
            self._on_refused(bool(self._refused))

    def _end(self, letter: Letter, ended: Ended) -> Delivered:
        row = letter.row
        about: dict[str, Any] = {"message": row.id, "bot_id": row.bot_id, "method": row.method}
        if ended.state == SENT:
            if self._sent.handlers:
                attempts, wait = letter.attempts, letter.age
                self._sent.publish(facts.MessageSent(**about, attempts=attempts, wait=wait))
        elif ended.state == UNKNOWN:
            self._publish(facts.MessageUnknown(**about, error=ended.told))
        else:
            expired = ended.state == EXPIRED
            self._publish(facts.MessageDead(**about, error=ended.told, expired=expired))
        if ended.blocked:
            chat = getattr(letter.call, "chat_id", None)
            self._publish(facts.ChatBlocked(bot_id=row.bot_id, chat=chat or 0))
        return Delivered(row, ended, letter.attempts)
