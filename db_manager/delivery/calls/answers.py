"""What an answer of Telegram, or none, means for a message."""

from dataclasses import dataclass, field
from typing import Any, Final

from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import Message
from aiohttp import ClientConnectorError

from db_manager.delivery.table.claims import DEAD, SENT, UNKNOWN
from lifecycle.error_text import tell

#: Seconds before the second attempt, longest wait before any, and wait of a bot that is refused.
FIRST_WAIT: Final = 0.4
LONGEST_WAIT: Final = 30.0
#: What Telegram says when a call is made a second time, and the first one did its work.
_DONE_BEFORE: Final = (
    "message is not modified",
    "message to delete not found",
    "query is too old",
)
#: Seconds for which Telegram takes an answer to these.
EXPIRES: Final = {
    "answerInlineQuery": 30.0,
    "answerCallbackQuery": 150.0,
    "answerShippingQuery": 150.0,
    "answerPreCheckoutQuery": 150.0,
    "sendChatAction": 5.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """It is over.

    Args:
        state: What it is, as in the table.
        answer: Telegram's.
        error: What Telegram said, for the table.
        told: The same without words that may be a user's, for events.
        blocked: The chat does not want to hear of the bot.
    """

    state: int
    answer: Any = field(default=None, repr=False)
    error: str = field(default="", repr=False)
    told: str = ""
    blocked: bool = False

    @property
    def message_id(self) -> int | None:
        """Number of the message that it made, if it made one."""
        return self.answer.message_id if isinstance(self.answer, Message) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """It is to be sent again.

    Args:
        told: Why, for events.
        wait: Seconds to wait exactly; None is longer each time.
        counts: How it counts: `time` ends with `retry_for`, `attempt` with `attempts`, and `never`.
        chat: The chat has moved here.
        refused: The bot itself is refused.
        limited: Telegram takes no more for now.
    """

    told: str
    wait: float | None = None
    counts: str = "time"
    chat: int | None = None
    refused: bool = False
    limited: bool = False


def meaning(error: Exception, *, once: bool, repeated: bool) -> Ended | Again:
    """Return what *error*, raised by a call, means for its message.

    Args:
        error: The error.
        once: The message must not come twice.
        repeated: It may have been sent before.
    """
    told = tell(error)
    found: Ended | Again
    match error:
        case TelegramRetryAfter():
            found = Again(told=told, wait=float(error.retry_after), counts="never", limited=True)
        case TelegramMigrateToChat():
            found = Again(told=told, wait=0.0, counts="never", chat=error.migrate_to_chat_id)
        case TelegramUnauthorizedError():
            found = Again(told=told, wait=LONGEST_WAIT, counts="never", refused=True)
        case ClientDecodeError():
            found = Ended(state=SENT, told=told)
        case TelegramEntityTooLarge():  # a TelegramNetworkError, by its class
            found = Ended(state=DEAD, error=_said(error), told=told)
        case TelegramNetworkError() | TelegramServerError():
            found = _maybe_done(error, once=once)
        case TelegramAPIError():
            found = _refusal(error, repeated=repeated)
        case _:  # of a middleware of the session, for example
            found = Again(told=told, counts="attempt")
    return found


def _maybe_done(error: TelegramAPIError, *, once: bool) -> Ended | Again:
    """Telegram may have done it, unless it was never asked."""
    below = error.__cause__ or error.__context__  # an older aiogram does not say `from`
    if once and not isinstance(below, ClientConnectorError):
        return Ended(state=UNKNOWN, error=_said(error), told=tell(error))
    return Again(told=tell(error))


def _refusal(error: TelegramAPIError, *, repeated: bool) -> Ended:
    if repeated and any(words in error.message for words in _DONE_BEFORE):
        return Ended(state=SENT, told=tell(error))
    blocked = isinstance(error, TelegramForbiddenError)
    return Ended(state=DEAD, error=_said(error), told=tell(error), blocked=blocked)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {getattr(error, 'message', '')}"
