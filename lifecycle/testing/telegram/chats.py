"""The people, chats and pending updates behind `server.BotApiServer`; no HTTP here."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from lifecycle.testing.telegram.calls import BotMessage, Json
from lifecycle.testing.telegram.html import utf16_length
from lifecycle.testing.telegram.transcript import Line, NoReplyError, Transcript

T = TypeVar("T")

_COMMAND = re.compile(r"(?<!\S)/\w{1,32}(@\w+)?")


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


class BotApiUser(BotApiChat):
    """A person and the private chat with the bot; made by `BotApiServer.user`.

    Attributes:
        sender: The user as the Bot API describes it.
    """

    def __init__(self, telegram: "Telegram", sender: Json) -> None:
        self.sender = sender
        private: Json = {k: sender[k] for k in ("id", "first_name", "username") if k in sender}
        super().__init__(telegram, {**private, "type": "private"})

    async def say(self, text: str, *, chat: BotApiChat | None = None) -> int:
        """Write to the bot; `/commands` become entities, as Telegram marks them.

        Args:
            text: The message.
            chat: Where to write; the private chat when not given.

        Returns:
            Number of the update.
        """
        message = self._telegram.new_message(chat or self, {"from": self.sender, "text": text})
        entities = [
            {
                "type": "bot_command",
                "offset": utf16_length(text[: found.start()]),
                "length": utf16_length(found.group()),
            }
            for found in _COMMAND.finditer(text)
        ]
        if entities:
            message["entities"] = entities
        self._telegram.log(self.name, text)
        return await self._telegram.deliver(message=message)

    async def press(self, message: BotMessage, data: str) -> int:
        """Press an inline button.

        Args:
            message: The message of the bot that has the button.
            data: Callback data of the button.

        Returns:
            Number of the update.

        Raises:
            ValueError: The message has no such button.
        """
        if data not in message.buttons.values():
            raise ValueError(f"no button with data {data!r}; there are {message.buttons}")
        self._telegram.log(self.name, f"presses {data!r}")
        return await self._telegram.deliver(
            callback_query={
                "id": self._telegram.new_query(),
                "from": self.sender,
                "chat_instance": str(self.id),
                "message": message.json,
                "data": data,
            }
        )


class Telegram:
    """What Telegram knows: chats, messages, and the updates the bot has not acknowledged.

    Attributes:
        transcript: Who said what and when.
        updates: Updates that wait for the bot's acknowledgement, oldest first.
        allowed_updates: Types the bot asked for; empty is every type.
        changed: Set by the next change, then replaced.
    """

    def __init__(self) -> None:
        self.transcript = Transcript()
        self.updates: list[Json] = []
        self.allowed_updates: list[str] = []
        self._chats: dict[int, BotApiChat] = {}
        self._messages: dict[tuple[int, int], Json] = {}
        self._queries: set[str] = set()
        self._last_update = self._last_message = self._last_query = 0
        self.changed = asyncio.Event()
        self._born = time.monotonic()

    def user(
        self,
        id: int,  # noqa: A002 -- the Bot API's own name
        name: str,
        *,
        username: str | None = None,
        language: str = "en",
    ) -> BotApiUser:
        """Return the person with this number, a new one when there is none.

        Args:
            id: Telegram's number of the user and of the private chat, above 0.
            name: First name.
            username: User name without `@`.
            language: IETF language tag of the app.

        Returns:
            The person, to talk with.
        """
        chat = self._chats.get(id)
        if not isinstance(chat, BotApiUser):
            sender = {"id": id, "is_bot": False, "first_name": name, "language_code": language}
            chat = BotApiUser(self, sender | ({"username": username} if username else {}))
            self._chats[id] = chat
        return chat

    def group(
        self,
        id: int,  # noqa: A002 -- the Bot API's own name
        title: str,
        *,
        kind: Literal["group", "supergroup", "channel"] = "supergroup",
    ) -> BotApiChat:
        """Return the group with this number, a new one when there is none.

        Args:
            id: Telegram's number of the chat, below 0.
            title: Name of the group.
            kind: Its type.

        Returns:
            The group; people talk in it with `user.say(text, chat=group)`.
        """
        json = {"id": id, "type": kind, "title": title}
        return self._chats.setdefault(id, BotApiChat(self, json))

    def push(self, **payload: Any) -> int:
        """Queue an update of any type, `push(inline_query={...})`.

        Args:
            **payload: One field of the Bot API's `Update` object.

        Returns:
            Number of the update.
        """
        self._last_update += 1
        kind = next(iter(payload))
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

    def new_query(self) -> str:
        """Return the number of a new callback query, which the bot may answer once."""
        self._last_query += 1
        self._queries.add(str(self._last_query))
        return str(self._last_query)

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
