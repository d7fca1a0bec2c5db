"""The chats, messages, queries and pending updates behind `server.BotApiServer`; no HTTP here."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from lifecycle.testing.telegram.answers import Query
from lifecycle.testing.telegram.calls import ApiCall, BotMessage, Json, UploadedFile
from lifecycle.testing.telegram.files import Files, kind_of
from lifecycle.testing.telegram.transcript import Line, NoReplyError, Transcript

T = TypeVar("T")

#: Updates that the bot may answer once.
_QUERIES: Final = ("callback_query", "inline_query", "pre_checkout_query", "shipping_query")


class BotApiChat:
    """A chat that the bot can write to; made by `BotApiServer.group`.

    Attributes:
        json: The chat as the Bot API describes it.
        unread: Messages of the bot that `reply` has not returned yet.
        blocked: True makes Telegram refuse the bot's messages with 403, as a user's block does.
    """

    def __init__(self, telegram: "Telegram", json: Json) -> None:
        self.json = json
        self.unread: deque[BotMessage] = deque()
        self.blocked = False
        self._telegram = telegram

    @property
    def id(self) -> int:
        """Number of the chat."""
        return int(self.json["id"])

    @property
    def name(self) -> str:
        """First name of the user, or title of the group."""
        return str(self.json.get("first_name") or self.json.get("title"))

    async def reply(self, timeout: float = 5.0) -> BotMessage:  # noqa: ASYNC109 -- see `wait`
        """Wait for the next message of the bot to this chat that was not read yet.

        Args:
            timeout: Seconds to wait.

        Returns:
            The message.

        Raises:
            NoReplyError: None came; with the whole transcript.
        """
        return await self._telegram.wait(
            lambda: self.unread.popleft() if self.unread else None,
            f"message from the bot to {self.name}",
            timeout,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.name!r} unread={len(self.unread)}>"


class Telegram:
    """What Telegram knows: chats, messages, and the updates the bot has not acknowledged.

    Args:
        me: The bot as `getMe` describes it.

    Attributes:
        me: The same.
        transcript: Who said what and when.
        updates: Updates that wait for the bot's acknowledgement, oldest first.
        allowed_updates: Types the bot asked for; empty is every type.
        files: What people and the bot have sent.
        invoices: What the bot asked for behind each link of `createInvoiceLink`.
        changed: Set by the next change, then replaced.
    """

    def __init__(self, me: Json) -> None:
        self.me = me
        self.transcript = Transcript()
        self.updates: list[Json] = []
        self.allowed_updates: list[str] = []
        self._chats: dict[int, BotApiChat] = {}
        self._messages: dict[tuple[int, int], Json] = {}
        self.files = Files()
        self.invoices: dict[str, Json] = {}
        self._sent_by: dict[tuple[int, int], ApiCall] = {}
        self._queries: dict[str, Query] = {}
        self._said: dict[int, Json] = {}
        self._last_update = self._last_message = self._last_query = 0
        self.changed = asyncio.Event()
        self._born = time.monotonic()

    def push(self, **payload: Any) -> int:
        """Queue an update of any type, `push(inline_query={...})`.

        Args:
            **payload: One field of the Bot API's `Update` object.

        Returns:
            Number of the update.
        """
        self._last_update += 1
        kind = next(iter(payload))
        if kind in _QUERIES:  # also one that a test made by hand
            self._queries.setdefault(str(payload[kind].get("id")), Query(kind))
        if kind in {"message", "edited_message"}:
            self._said[self._last_update] = payload[kind]
        if self.allowed_updates and kind not in self.allowed_updates:
            asked = ", ".join(self.allowed_updates)
            self.log("Telegram", f"drops the {kind}: the bot asked only for {asked}")
        else:
            self.updates.append({"update_id": self._last_update, **payload})
            self.notify()
        return self._last_update

    async def deliver(self, **payload: Any) -> int:
        """Hand over what a person did; here it waits until the bot asks for its updates.

        Args:
            **payload: One field of the Bot API's `Update` object.

        Returns:
            Number of the update.
        """
        return self.push(**payload)

    def new_message(self, chat: BotApiChat, content: Json) -> Json:
        """Return a new message in *chat*, which is kept for edits and deletions."""
        self._last_message += 1
        message = {
            "message_id": self._last_message,
            "date": int(time.time()),
            "chat": chat.json,
            **content,
        }
        self._messages[chat.id, self._last_message] = message
        return message

    def new_query(self, kind: str) -> tuple[str, Query]:
        """Return the number of a new query, and the query, which the bot may answer once.

        Args:
            kind: Field of the update, `callback_query`.
        """
        self._last_query += 1
        query = self._queries[str(self._last_query)] = Query(kind)
        return str(self._last_query), query

    async def wait_for_answer(self, query: Query, timeout: float) -> Json:  # noqa: ASYNC109 -- see `wait`
        """Wait until the bot has answered *query*; return the arguments of the answer.

        Raises:
            NoReplyError: It did not, in time.
        """
        return await self.wait(lambda: query.answer, f"answer to the {query.kind}", timeout)

    def said_in(self, update: int) -> Json:
        """Return the message of an update that a person caused.

        Raises:
            ValueError: It was no message.
        """
        if update not in self._said:
            raise ValueError(f"update {update} is no message")
        return self._said[update]

    def replace_message(self, message: Json) -> None:
        """Let *message* stand where the one with its number stood."""
        self._messages[message["chat"]["id"], message["message_id"]] = message

    def chat(self, number: int) -> BotApiChat:
        """Return the chat with a number, which is there."""
        return self._chats[number]

    def messages(self, chat: BotApiChat, sender: int | None = None) -> Iterator[Json]:
        """Yield the messages in *chat*, the last one first.

        Args:
            chat: The chat.
            sender: Whose; everybody's when not given.
        """
        for (chat_id, _), message in sorted(self._messages.items(), reverse=True):
            if chat_id == chat.id and sender in (None, message["from"]["id"]):
                yield message

    def bot_message(self, message: Json, call: ApiCall | None = None) -> BotMessage:
        """Return a message of the bot, to look at.

        Args:
            message: The message.
            call: The call that sent it; by default the one that is known for it.
        """
        key = message["chat"]["id"], message["message_id"]
        if call is not None:
            self._sent_by.setdefault(key, call)
        return BotMessage(message, self._sent_by[key], self._file_of)

    def _file_of(self, message: Json) -> UploadedFile | None:
        kind = kind_of(message)
        if kind is None:
            return None
        found = message[kind]
        return self.files.get((found[-1] if isinstance(found, list) else found)["file_id"])

    def log(self, who: str, what: str) -> None:
        """Write a line of the transcript."""
        self.transcript.append(Line(self.clock(), who, what))

    def clock(self) -> float:
        """Return seconds since this object was made."""
        return time.monotonic() - self._born

    def notify(self) -> None:
        """Wake everybody who waits for something to change."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait(
        self,
        attempt: Callable[[], T | None],
        what: str,
        timeout: float,  # noqa: ASYNC109 -- the error must name what was waited for
    ) -> T:
        """Call *attempt* after every change until it returns something.

        Args:
            attempt: Returns None to go on waiting.
            what: What is waited for, for the error.
            timeout: Seconds to wait.

        Returns:
            What *attempt* returned.

        Raises:
            NoReplyError: It did not, in time.
        """
        try:
            async with asyncio.timeout(timeout):
                while (result := attempt()) is None:
                    await self.changed.wait()
                return result
        except TimeoutError:
            left = len(self.updates)
            hint = f"; updates the bot did not acknowledge: {left}" if left else ""
            raise NoReplyError(
                f"no {what} within {timeout:g} s{hint}. The transcript:\n{self.transcript}"
            ) from None
