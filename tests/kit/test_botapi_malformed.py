"""Malformed requests to the local Bot API: each is refused in Telegram's way, none is a 500."""

import asyncio
import gc
import io
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from lifecycle.testing import BotApiServer, UploadedFile

METHODS = """
getMe getUpdates setWebhook deleteWebhook getWebhookInfo sendMessage sendPhoto sendMediaGroup
editMessageText editMessageCaption editMessageReplyMarkup deleteMessage answerCallbackQuery
setMyCommands getMyCommands deleteMyCommands banChatMember sendChatAction noSuchMethod
editMessageMedia sendDocument sendSticker sendContact sendVenue sendPoll sendDice sendInvoice
createInvoiceLink answerInlineQuery answerPreCheckoutQuery getFile getChat forwardMessage
copyMessage getUserProfilePhotos
"""
FIELDS = """
chat_id text caption parse_mode entities caption_entities reply_markup media message_id
offset limit timeout allowed_updates url secret_token drop_pending_updates commands scope
language_code callback_query_id inline_message_id
photo document sticker phone_number first_name latitude longitude title address question options
type prices currency payload ok error_message results file_id from_chat_id emoji
"""
#: What lets a call go further than its first missing argument.
GIVEN = {
    "phone_number": "1", "first_name": "A", "latitude": 1, "longitude": 1, "title": "T",
    "address": "A", "question": "Q", "options": ["a"], "description": "D", "payload": "P",
    "currency": "XTR", "prices": [{"label": "L", "amount": 1}], "from_chat_id": 7,
}  # fmt: skip
DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, -(2**63) - 1, 10**400, 1.5, 1e308, float("nan"),
    float("inf"), "", " ", "x", "7", "-", "--1", "\0", "\ud800", "é" * 5000, "<b>x", "<b>x</b>",
    "html", "&#x110000;", "attach://file", [], [[]], [1], [None], ["x"], {}, {"": None},
    {"inline_keyboard": 1}, {"inline_keyboard": [1]}, {"inline_keyboard": [[1]]},
    {"inline_keyboard": [[{}]]}, {"inline_keyboard": [[{"text": 1}]]}, {"type": None}, DEEP,
    [{"type": "photo", "media": 1, "caption": 1}], [{"caption": [], "chat_id": []}],
]  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """Yield a server that knows Ada."""
    async with BotApiServer() as running:
        running.user(id=7, name="Ada")
        yield running


def check(status: int, told: Any) -> None:
    """Check one answer: a result, or a refusal in Telegram's form."""
    if status == 200:
        assert told["ok"] is True
        return
    assert status in (400, 401, 404, 409, 413), (status, told)
    assert told["ok"] is False
    assert told["error_code"] == status
    assert isinstance(told["description"], str)


async def refused(answer: aiohttp.ClientResponse) -> None:
    """Check one answer over HTTP."""
    check(answer.status, await answer.json())


def calls(field: str, values: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield arguments with each of the values in a field."""
    for value in values:
        given = {"chat_id": 7, "text": "hello", "message_id": 1, **GIVEN, field: value}
        if field != "timeout":
            given["timeout"] = 0
        elif isinstance(value, int) and value > 0:
            continue  # it would wait, as it should
        yield given


async def test_wrong_values_are_refused(server: BotApiServer) -> None:
    """Each field with each value, as JSON and as a form."""
    address, chance = f"{server.url}/bot{server.token}", random.Random(1)
    header = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession() as http:
        for given in (each for field in FIELDS.split() for each in calls(field, VALUES)):
            url = f"{address}/{chance.choice(METHODS.split())}"
            form = {key: json.dumps(value) for key, value in given.items()}
            async with asyncio.timeout(10):
                async with http.post(url, data=json.dumps(given), headers=header) as answer:
                    await refused(answer)
                async with http.post(url, data=form) as answer:
                    await refused(answer)


async def test_wrong_values_are_refused_by_each_method(server: BotApiServer) -> None:
    """Each method with some of the values in each field: behind HTTP, which knows no methods."""
    chance = random.Random(1)
    for method in METHODS.split():
        for field in FIELDS.split():
            for given in calls(field, chance.sample(VALUES, 12)):
                told = json.loads(json.dumps(await server.perform(method, given)))
                check(told.get("error_code", 200), told)


PART = b"--y\r\nContent-Disposition: form-data; name="
FORM = "multipart/form-data; boundary=y"
BODIES = [
    (b"{", "application/json"),
    (b"[]", "application/json"),
    (b"\xff", "application/json"),
    (b"{}", "application/json; charset=nonsense"),
    (b"[" * 100_000, "application/json"),
    (b"{" * 100_000, "application/json"),
    (b"9" * 10_000, "application/json"),
    (b"x", "multipart/form-data"),
    (b"x", "multipart/form-data; boundary=y"),
    (b"--y\r\n", "multipart/form-data; boundary=y"),
    (b"--y\r\n\r\nx\r\n--y--", "multipart/form-data; boundary=y"),
    (b"--y\r\nContent-Disposition: form-data\r\n\r\nx\r\n--y--", "multipart/form-data; boundary=y"),
    (PART + b"text\r\nContent-Transfer-Encoding: no\r\n\r\nx\r\n--y--\r\n", FORM),
    (PART + b"a; filename=b\r\nContent-Type: x; charset=no\r\n\r\n\xff\r\n--y--\r\n", FORM),
    (b'--y\r\nContent-Disposition: form-data; name="text"\r\n\r\n\xff\xfe\r\n--y--\r\n',
     "multipart/form-data; boundary=y"),
    (b"x" * 200, "multipart/form-data; boundary=" + "y" * 100),
    (b"%ff=%ff&=&&==", "application/x-www-form-urlencoded"),
    (b"text=%FF", "application/x-www-form-urlencoded; charset=utf-8"),
    (b"text=x", "application/x-www-form-urlencoded; charset=nonsense"),
    (b"text=" + b"[" * 100_000, "application/x-www-form-urlencoded"),
    (b"reply_markup=" + b"[" * 100_000, "application/x-www-form-urlencoded"),
    (b"x", "nonsense"),
    (b"", "application/json"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("encoding", ["", "gzip", "nonsense"])
async def test_bodies_that_cannot_be_read(
    server: BotApiServer, body: bytes, kind: str, encoding: str
) -> None:
    """What is no JSON, no form, or not encoded as it says, is refused."""
    headers = {"Content-Type": kind} | ({"Content-Encoding": encoding} if encoding else {})
    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http:
        sent = http.post(
            f"{server.url}/bot{server.token}/sendMessage",
            data=_raw(body),
            headers=headers,
        )
        async with asyncio.timeout(10), sent as answer:
            if answer.content_type == "application/json":
                await refused(answer)
            else:  # not HTTP enough to reach a method
                assert answer.status == 400


async def _raw(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def test_a_body_that_is_too_large(server: BotApiServer) -> None:
    """It is refused as too large, in Telegram's form."""
    async with aiohttp.ClientSession() as http:
        data = {"document": io.BytesIO(bytes(51 * 2**20))}
        url = f"{server.url}/bot{server.token}/sendDocument"
        async with http.post(url, data=data) as answer:
            assert answer.status == 413
            await refused(answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    "path",
    ["/", "/bot", "/botx/getMe", "/bot42:wrong/getMe", "/bot42:local-test/", "/%00", "/bot/x"],
)
async def test_addresses_that_are_none(server: BotApiServer, method: str, path: str) -> None:
    """An address without a token or a method is 404, a wrong token 401."""
    async with aiohttp.ClientSession() as http, http.request(method, server.url + path) as answer:
        assert answer.status in (401, 404)
        await refused(answer)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nX\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http(server: BotApiServer, request_: bytes) -> None:
    """It is 400, and the server serves the next one."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_)
    line = await asyncio.wait_for(reader.readline(), 10)
    assert line.split()[1] == b"400"
    writer.close()
    address = f"{server.url}/bot{server.token}/getMe"
    async with aiohttp.ClientSession() as http, http.get(address) as answer:
        assert answer.status == 200


async def test_an_upload_in_pieces_is_read_as_one(server: BotApiServer) -> None:
    """Where the network cuts it says nothing of what is read; also not where a warning is an error.

    aiohttp's reader of streams warns of itself when a piece is shorter than a boundary.
    """
    boundary, content = "b" * 60, bytes(20_000)
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="chat_id"\r\n\r\n7\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="document"; filename="a"\r\n\r\n'
    )
    body = parts.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    head = (
        f"POST /bot{server.token}/sendDocument HTTP/1.1\r\nHost: a\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    )
    cuts = [0, len(parts) + 100, len(parts) + 110, len(body)]
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode())
    async with aiohttp.ClientSession() as http:
        for begin, end in itertools.pairwise(cuts):
            writer.write(body[begin:end])
            async with http.get(f"{server.url}/bot{server.token}/getMe") as answer:
                assert answer.status == 200  # who is served later than this piece
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    [sent] = [call for call in server.calls if call.method == "sendDocument"]
    assert sent.params["document"] == UploadedFile("a", content)


async def test_an_upload_that_is_broken_off_leaves_nothing(server: BotApiServer) -> None:
    """Of a bot that dies amid an upload no file is left open, which would be a warning later."""
    head = (
        f"POST /bot{server.token}/sendDocument HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        'Content-Disposition: form-data; name="document"; filename="a"\r\n\r\nhalf of it'
    )
    url = urlsplit(server.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode())
    async with aiohttp.ClientSession() as http:
        me = f"{server.url}/bot{server.token}/getMe"
        async with http.get(me) as answer:  # who is served later than the first half
            assert answer.status == 200
        writer.transport.abort()
        async with http.get(me) as answer:
            assert answer.status == 200
    gc.collect()  # pytest makes an error of what it warns of
