"""A call of the bot, and what it sent with it: a message, a file."""

from collections.abc import Callable
from dataclasses import dataclass, field
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
    """A file that the bot sent in a multipart body, or that somebody sent to it."""

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
    _file: Callable[[Json], UploadedFile | None] = field(default=lambda _: None, repr=False)

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
        keys = ("callback_data", "url")
        return {
            str(each["text"]): str(next((each[key] for key in keys if key in each), ""))
            for each in self.inline_keyboard
        }

    @property
    def inline_keyboard(self) -> list[Json]:
        """Inline buttons as the Bot API describes them, row after row."""
        rows = self.json.get("reply_markup", {}).get("inline_keyboard", [])
        return [button for row in rows for button in row]

    @property
    def keyboard(self) -> list[str]:
        """Labels of the reply keyboard that came with it; people press one by saying its label."""
        rows = self.call.params.get("reply_markup", {}).get("keyboard", [])
        return [str(each.get("text", "")) for row in rows for each in row]

    @property
    def file(self) -> UploadedFile | None:
        """Photo, document or another file of it; None without one, and for a link or foreign id."""
        return self._file(self.json)

    @property
    def invoice(self) -> Json | None:
        """The invoice: `title`, `description`, `currency`, `total_amount` in the smallest unit."""
        found: Json | None = self.json.get("invoice")
        return found
