"""Files of messages are kept with them, byte for byte, and refused by name before anything is."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot
from aiogram.methods import SendDocument, SendMediaGroup, SendPhoto, TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    FSInputFile,
    InputFile,
    InputMediaDocument,
    URLInputFile,
)
from sqlalchemy.engine import URL
from support.kept import Kept, kept

from db_manager.delivery.calls.stored import loaded, stored
from db_manager.sending import MessageDeadError, NotStorableError
from lifecycle.testing import BotApiServer, UploadedFile

CONTENT = bytes(range(256)) * 40


class Own(InputFile):
    """A file that only its own code can read."""

    async def read(self, bot: Bot) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 -- aiogram's
        """Read it."""
        yield b"mine"


async def files(app: Kept) -> list[tuple[Any, ...]]:
    """Return what is in the table."""
    return await app.sql(
        "SELECT outbox_id, field, name, content FROM delivery__file ORDER BY field"
    )


def uploaded(server: BotApiServer) -> list[tuple[str, bytes]]:
    """Return names and contents of what Telegram got, in order."""
    found: list[UploadedFile] = []
    for call in server.calls:  # a field and the part that it refers to are the same file
        parts = [each for each in call.params.values() if isinstance(each, UploadedFile)]
        found += dict.fromkeys(parts)
    return [(each.name, each.content) for each in found]


@pytest.mark.parametrize("by_another", [False, True])
async def test_a_file_arrives_as_it_was(
    url: URL, server: BotApiServer, bot: Bot, tmp_path: Path, *, by_another: bool
) -> None:
    """From memory and from the file system, by whichever process; then its content is erased."""
    path = tmp_path / "report.pdf"
    path.write_bytes(CONTENT[::-1])
    async with kept(url, *([] if by_another else [bot])) as app:
        async with app.units() as uow:
            uow.send(SendPhoto(chat_id=7, photo=BufferedInputFile(CONTENT, "a.png")).as_(bot))
            uow.send(SendDocument(chat_id=7, document=FSInputFile(path)).as_(bot))
        path.unlink()
        if by_another:
            assert [row[1:] for row in await files(app)] == [
                ("document", "report.pdf", CONTENT[::-1]),
                ("photo", "a.png", CONTENT),
            ]
            assert server.calls == []
    async with kept(url, bot) as app:
        await app.settled()
        assert await files(app) == []
    assert uploaded(server) == [("a.png", CONTENT), ("report.pdf", CONTENT[::-1])]


async def test_an_album_keeps_each_in_its_place(url: URL, server: BotApiServer, bot: Bot) -> None:
    """Files inside of a field, beside one that Telegram has, and a thumbnail of one."""
    media: list[Any] = [
        InputMediaDocument(
            media=BufferedInputFile(b"one", "1"), thumbnail=BufferedInputFile(b"small", "t")
        ),
        InputMediaDocument(media=BufferedInputFile(b"two", "2"), caption="second"),
    ]
    async with kept(url, bot) as app:
        async with app.units() as uow:
            sending = uow.send(SendMediaGroup(chat_id=7, media=media))
        first, second = await sending
        assert second.caption == "second"
        for message, content in ((first, b"one"), (second, b"two")):
            downloaded = await bot.download(message.document)
            assert downloaded is not None
            assert downloaded.read() == content
    assert sorted(uploaded(server)) == [("1", b"one"), ("2", b"two"), ("t", b"small")]


def test_a_file_at_a_url_is_fetched_by_who_sends() -> None:
    """Its URL is kept, and what else aiogram needs to fetch it."""
    file = URLInputFile("https://example.com/a.png", filename="a.png", timeout=7)
    payload, found = stored(SendPhoto(chat_id=7, photo=file))
    again = loaded("sendPhoto", payload, Bot("42:offline"), found)
    assert isinstance(again, SendPhoto)
    assert isinstance(again.photo, URLInputFile)
    assert (again.photo.url, again.photo.filename, again.photo.timeout) == (
        *("https://example.com/a.png", "a.png"),
        7,
    )
    assert found == []


async def test_what_cannot_be_kept_is_refused_by_name(
    url: URL, server: BotApiServer, bot: Bot, tmp_path: Path
) -> None:
    """A file that is too large, one with secrets, one that is code: nothing of it is written."""
    large = tmp_path / "large"
    large.write_bytes(b"12345")
    secret = URLInputFile("https://example.com", headers={"Authorization": "canary"})
    refused: list[tuple[TelegramMethod[Any], str]] = [
        (
            SendPhoto(chat_id=7, photo=BufferedInputFile(b"12345", "a")),
            "photo has 5 bytes, and .* 4",
        ),
        (SendDocument(chat_id=7, document=FSInputFile(large)), "document has 5 bytes, and .* 4"),
        (SendPhoto(chat_id=7, photo=secret), "photo is a URLInputFile with headers"),
        (
            SendPhoto(chat_id=7, photo=Own()),
            "photo is of the type Own, which only its own code reads",
        ),
    ]
    async with kept(url, bot, max_file=4) as app:
        async with app.units() as uow:
            for call, match in refused:
                with pytest.raises(NotStorableError, match=match) as error:
                    uow.send(call)
                assert "canary" not in str(error.value)
                assert "send a file_id or a URL" in str(error.value)
            with pytest.raises(FileNotFoundError):
                uow.send(SendDocument(chat_id=7, document=FSInputFile(tmp_path / "absent")))
            sending = uow.send(SendPhoto(chat_id=7, photo=BufferedInputFile(b"1234", "a")))
        await sending
        assert len(await app.rows()) == 1
    assert uploaded(server) == [("a", b"1234")]


async def test_a_file_goes_with_its_message(url: URL, server: BotApiServer, bot: Bot) -> None:
    """Not written with a unit that is rolled back, kept with a dead one, deleted with its row."""
    async with kept(url, bot) as app:
        with pytest.raises(ZeroDivisionError):
            async with app.units() as uow:
                uow.send(SendPhoto(chat_id=7, photo=BufferedInputFile(b"no", "a")))
                raise ZeroDivisionError
        assert await files(app) == []
        server.fail_next("sendPhoto", error_code=400)
        async with app.units() as uow:
            sending = uow.send(SendPhoto(chat_id=7, photo=BufferedInputFile(b"dead", "a")))
        with pytest.raises(MessageDeadError):
            await sending
        await app.settled()
        assert await files(app) == [(sending.id, "photo", "a", b"dead")]
        await app.sql("DELETE FROM delivery__outbox")
        assert await files(app) == []
