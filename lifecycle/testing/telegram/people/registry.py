"""Who there is: the people and groups that a bot can meet."""

from typing import Literal

from lifecycle.testing.telegram.people.chats import BotApiChat, Telegram
from lifecycle.testing.telegram.people.user import BotApiUser


class People(Telegram):
    """Telegram with its people and groups."""

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
