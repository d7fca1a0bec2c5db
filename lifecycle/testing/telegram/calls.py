"""A call of the bot, and what it sent with it: a message, a file."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(slots=True)
class ApiCall:
    """One call of the bot.

    Args:
        method: Name of the method as the bot wrote it, `sendMessage`.
        params: Arguments, decoded; a file is an `UploadedFile`.
        at: Seconds since the server was made.
        answer: What the bot was told; None while the call runs (a long poll).
    """

    method: str
    params: Json
    at: float
    answer: Json | None = None


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that the bot sent in a multipart body."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class BotMessage:
    """A message of the bot as it is now: an edit by the bot changes it.

    Args:
        json: The message as the Bot API describes it.
        call: The call that sent it.
    """

    json: Json
    call: ApiCall

    @property
    def message_id(self) -> int:
        """Number of the message."""
        return int(self.json["message_id"])

    @property
    def text(self) -> str:
        """Text, or caption of a photo or file; HTML is read, Markdown is left as it was sent."""
        return str(self.json.get("text", self.json.get("caption", "")))

    @property
    def buttons(self) -> dict[str, str]:
        """Inline buttons: the label, and the data that pressing sends (or the link it opens)."""
        rows = self.json.get("reply_markup", {}).get("inline_keyboard", [])
        return {b["text"]: b.get("callback_data", b.get("url", "")) for row in rows for b in row}
