"""What the bot answers to a press, an inline query, a payment."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from lifecycle.testing.telegram.calls import Json
from lifecycle.testing.telegram.transcript import NoReplyError


@dataclass(slots=True)
class Query:
    """Something that the bot may answer once.

    Args:
        kind: Field of the update: `callback_query`, `inline_query`, `pre_checkout_query`.
        answer: The arguments of the answer; None before it.
    """

    kind: str
    answer: Json | None = None


#: Waits until the query is answered, for up to so many seconds.
Waiting = Callable[[Query, float], Awaitable[object]]


class Answer:
    """The bot's answer to a query, filled in as soon as the bot gives it.

    Args:
        update: Number of the update.
        query: The query.
        waiting: Waits for the answer.
    """

    def __init__(self, update: int, query: Query, waiting: Waiting) -> None:
        self.update = update
        self._query = query
        self._waiting = waiting

    @property
    def is_there(self) -> bool:
        """True when the bot has answered; until then the app shows that it waits."""
        return self._query.answer is not None

    async def wait(self, timeout: float = 5.0) -> Self:  # noqa: ASYNC109 -- the error must name what was waited for
        """Wait for the answer of a bot that polls; under `telegram.run` it is there at once.

        Args:
            timeout: Seconds to wait.

        Returns:
            The answer.

        Raises:
            NoReplyError: None came; with the whole transcript.
        """
        await self._waiting(self._query, timeout)
        return self

    def _get(self, key: str, *, default: Any) -> Any:
        if self._query.answer is None:
            raise NoReplyError(
                f"the bot has not answered the {self._query.kind} (update {self.update}); for a "
                f"bot that polls, `await answer.wait()` first"
            )
        return self._query.answer.get(key, default)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} update={self.update} {self._query.answer}>"


class CallbackAnswer(Answer):
    """What `answerCallbackQuery` showed after a press; reading it before is a `NoReplyError`."""

    @property
    def text(self) -> str:
        """The notice, empty when none was shown."""
        return str(self._get("text", default=""))

    @property
    def show_alert(self) -> bool:
        """True when the notice has to be closed."""
        return bool(self._get("show_alert", default=False))

    @property
    def url(self) -> str:
        """The link that the app opens, empty without one."""
        return str(self._get("url", default=""))


class InlineAnswer(Answer):
    """What `answerInlineQuery` offers; reading it before is a `NoReplyError`."""

    @property
    def results(self) -> list[Json]:
        """The results as the Bot API describes them."""
        return list(self._get("results", default=[]))

    @property
    def titles(self) -> list[str]:
        """The title of each result."""
        return [str(each.get("title", "")) for each in self.results]


@dataclass(frozen=True, slots=True)
class Payment:
    """How a payment ended.

    Args:
        ok: True when the bot has agreed, and was told of the payment.
        error: What the bot answered when it refused.
        charge_id: Telegram's number of the payment, for `refundStarPayment`; empty when refused.
        update: Number of the last update: the payment, or the question before it.
    """

    ok: bool
    error: str
    charge_id: str
    update: int
