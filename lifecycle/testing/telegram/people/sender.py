"""What a person sends to the bot: texts, photos and files, contacts, locations, corrections."""

import re
from os import PathLike
from pathlib import Path
from typing import Any, Final

from lifecycle.testing.telegram.calls import BotMessage, Json, UploadedFile
from lifecycle.testing.telegram.html import utf16_length
from lifecycle.testing.telegram.people.chats import BotApiChat, Telegram

#: What a person sends: the bytes, or the path of a file.
Content = bytes | PathLike[str]

_COMMAND: Final = re.compile(r"(?<!\S)/\w{1,32}(@\w+)?")
#: A JPEG of one pixel.
PIXEL: Final = (
    bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb004300")
    + b"\xff" * 64  # its table of quantization
    + bytes.fromhex(
        "ffc0000b080001000101011100ffc40014000100000000000000000000000000000003ff"
        "c40014100100000000000000000000000000000000ffda0008010100003f0037ffd9"
    )
)


class Sender(BotApiChat):
    """A person who sends; see `people.user.BotApiUser`.

    Attributes:
        sender: The user as the Bot API describes it.
    """

    def __init__(self, telegram: Telegram, sender: Json) -> None:
        self.sender = sender
        private: Json = {k: sender[k] for k in ("id", "first_name", "username") if k in sender}
        super().__init__(telegram, {**private, "type": "private"})

    async def say(
        self, text: str, *, chat: BotApiChat | None = None, reply_to: BotMessage | None = None
    ) -> int:
        """Write to the bot; `/commands` become entities, as Telegram marks them.

        Args:
            text: The message.
            chat: Where to write; the private chat when not given.
            reply_to: The message of the bot that this answers.

        Returns:
            Number of the update.
        """
        return await self.send(chat=chat, reply_to=reply_to, **_marked(text))

    async def send(
        self,
        *,
        chat: BotApiChat | None = None,
        reply_to: BotMessage | None = None,
        **content: Any,
    ) -> int:
        """Send a message of any content, `send(dice={"emoji": "🎲", "value": 6})`.

        Args:
            chat: Where to; the private chat when not given.
            reply_to: The message of the bot that this answers.
            **content: Fields of the Bot API's `Message` object.

        Returns:
            Number of the update.
        """
        if reply_to is not None:
            content["reply_to_message"] = reply_to.json
        message = self._telegram.new_message(chat or self, {"from": self.sender, **content})
        self._telegram.log(self.name, _shown(content))
        return await self._telegram.deliver(message=message)

    async def send_photo(
        self, photo: Content = PIXEL, *, caption: str = "", chat: BotApiChat | None = None
    ) -> int:
        """Send a photo, which the bot can download; by default one pixel.

        Args:
            photo: Bytes or path of a JPEG. Its size in pixels is not looked at.
            caption: Text below it.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        return await self._send_file("photo", photo, "photo.jpg", caption, chat)

    async def send_document(
        self,
        document: Content,
        *,
        name: str = "",
        caption: str = "",
        chat: BotApiChat | None = None,
    ) -> int:
        """Send a file.

        Args:
            document: Bytes or path.
            name: Name of the file, which also says its MIME type; by default that of the path.
            caption: Text below it.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        return await self._send_file("document", document, name, caption, chat)

    async def send_voice(
        self, voice: Content = b"OggS", *, duration: int = 1, chat: BotApiChat | None = None
    ) -> int:
        """Send a voice message.

        Args:
            voice: Bytes or path; by default nothing that can be heard.
            duration: Its length in seconds.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        return await self._send_file("voice", voice, "voice.oga", "", chat, duration=duration)

    async def send_video(
        self,
        video: Content,
        *,
        caption: str = "",
        duration: int = 1,
        chat: BotApiChat | None = None,
    ) -> int:
        """Send a video.

        Args:
            video: Bytes or path.
            caption: Text below it.
            duration: Its length in seconds.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        return await self._send_file("video", video, "video.mp4", caption, chat, duration=duration)

    async def share_contact(
        self, phone_number: str = "+15550100", *, chat: BotApiChat | None = None
    ) -> int:
        """Share the own contact, as the button `request_contact` does.

        Args:
            phone_number: The number.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        own = {"first_name": self.name, "user_id": self.id}
        return await self.send(chat=chat, contact={"phone_number": phone_number, **own})

    async def share_location(
        self, latitude: float, longitude: float, *, chat: BotApiChat | None = None
    ) -> int:
        """Share a place.

        Args:
            latitude: Degrees.
            longitude: Degrees.
            chat: Where to; the private chat when not given.

        Returns:
            Number of the update.
        """
        place = {"latitude": latitude, "longitude": longitude}
        return await self.send(chat=chat, location=place)

    async def edit(
        self, text: str, *, update: int | None = None, chat: BotApiChat | None = None
    ) -> int:
        """Correct what was said: the text of a message, or the caption of a photo or file.

        Args:
            text: The new text.
            update: What `say` or another verb returned; by default the last message.
            chat: The chat of that last message; the private chat when not given.

        Returns:
            Number of the update.

        Raises:
            ValueError: There is no such message of this person.
        """
        if update is None:
            old = next(self._telegram.messages(chat or self, self.id), None)
        else:
            old = self._telegram.said_in(update)
        if old is None or old["from"]["id"] != self.id:
            raise ValueError(f"{self.name} has sent no such message")
        new = _marked(text) if "text" in old else {"caption": text}
        kept = {key: value for key, value in old.items() if key != "entities"}
        edited = {**kept, **new, "edit_date": old["date"]}
        self._telegram.replace_message(edited)
        self._telegram.log(self.name, f"<edited> {text}")
        return await self._telegram.deliver(edited_message=edited)

    async def _send_file(
        self,
        kind: str,
        content: Content,
        name: str,
        caption: str,
        chat: BotApiChat | None,
        **given: Any,
    ) -> int:
        file_id = self._telegram.files.keep(kind, _file(content, name))
        described = self._telegram.files.described(kind, file_id, given)
        parts: Json = {kind: described} | ({"caption": caption} if caption else {})
        return await self.send(chat=chat, **parts)


def _file(content: Content, name: str) -> UploadedFile:
    """Return what is sent; a name that was not given is that of the path."""
    if isinstance(content, bytes):
        return UploadedFile(name or "file.bin", content)
    path = Path(content)
    return UploadedFile(name or path.name, path.read_bytes())


def _marked(text: str) -> Json:
    """Return a text with its commands marked."""
    entities = [
        {
            "type": "bot_command",
            "offset": utf16_length(text[: found.start()]),
            "length": utf16_length(found.group()),
        }
        for found in _COMMAND.finditer(text)
    ]
    return {"text": text, "entities": entities} if entities else {"text": text}


def _shown(content: Json) -> str:
    if "text" in content:
        return str(content["text"])
    kind = next(iter(content), "nothing")
    return f"<{kind}> {content.get('caption', '')}".rstrip()
