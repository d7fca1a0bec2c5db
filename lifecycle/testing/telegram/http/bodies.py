"""The bodies of HTTP: form, multipart or JSON, decoded to the arguments of a method."""

import io
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import BodyPartReader, ClientResponse, MultipartReader, web

from lifecycle.testing.telegram.calls import Json, UploadedFile

# A form sends everything as text; what is text in the API itself stays text.
_TEXTS = re.compile(
    "text|caption|title|.*description|.*name|question|url|data|payload|secret_token|.*query_id"
    "|start_parameter|inline_message_id|phone_number|file_id|currency|provider_token|error_message"
    "|photo|document|audio|video|animation|voice|video_note|sticker|address|emoji|vcard"
)


async def params_of_request(request: web.Request) -> Json:
    """Return the arguments in query and body of a call.

    Raises:
        ValueError: The body is no JSON object, or no JSON.
        HTTPException: aiohttp cannot read it.
    """
    given: Json = {key: _decode(key, value) for key, value in request.query.items()}
    if request.content_type == "application/json" and request.can_read_body:
        body = await request.json()
        if not isinstance(body, dict):
            raise ValueError("object expected")
        return given | body
    if request.content_type == "multipart/form-data":
        # Not `post`: of an upload that is broken off it leaves an open file to the collector.
        most = request.client_max_size
        return _attached(given | await _of_parts(request.headers, await request.read(), most))
    for key, value in (await request.post()).items():
        given[key] = _decode(key, str(value))
    return given


class _Whole:
    """A body that was read whole, as the stream that aiohttp's reader of parts wants.

    Of a real one, which comes in pieces, that reader takes a part back now and then, and warns of
    it: https://github.com/aio-libs/aiohttp/issues/3260. Where warnings are errors, as in many
    tests, uploads would fail by chance.
    """

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._size = len(content)

    async def read(self, size: int) -> bytes:
        return self._file.read(size)

    async def readline(self, **_: int) -> bytes:
        return self._file.readline()

    def unread_data(self, data: bytes) -> None:
        self._file.seek(-len(data), io.SEEK_CUR)

    def at_eof(self) -> bool:
        return self._file.tell() == self._size


async def _of_parts(headers: Mapping[str, str], body: bytes, most: float = math.inf) -> Json:
    """Return texts and files of a body, of at most so many bytes when they are unpacked.

    Raises:
        ValueError: A part has no name, or the body is no multipart.
        HTTPRequestEntityTooLarge: There are more.
    """
    params, size = Json(), 0
    async for part in MultipartReader(headers, _Whole(body)):  # type: ignore[arg-type]  # what it uses of a stream
        if not isinstance(part, BodyPartReader) or not part.name:
            raise ValueError("a part without a name")
        content = bytes(await part.read(decode=True))
        size += len(content)
        if size > most:
            raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=size)
        params[part.name] = (
            UploadedFile(part.filename, content)
            if part.filename
            else _decode(part.name, content.decode(part.get_charset("utf-8")))
        )
    return params


def _attached(params: Json) -> Json:
    """Return *params* with each file where its name stands."""
    files = {f"attach://{k}": v for k, v in params.items() if isinstance(v, UploadedFile)}
    return {key: _with_files(value, files) for key, value in params.items()}


def _with_files(value: Any, files: Json) -> Any:
    """Put files where `attach://…` stands for them: in albums they are deep inside."""
    if isinstance(value, str):
        return files.get(value, value)
    if isinstance(value, list):
        return [_with_files(each, files) for each in value]
    if isinstance(value, dict):
        return {key: _with_files(each, files) for key, each in value.items()}
    return value


async def params_of_reply(response: ClientResponse) -> Json:
    """Return what a bot answered to the delivery of an update: a method for Telegram to perform."""
    if response.content_type.startswith("multipart/"):
        return _attached(await _of_parts(response.headers, await response.read()))
    if response.content_type == "application/json":
        body = await response.json()
        return dict(body) if isinstance(body, dict) else {}
    return {}


def _decode(key: str, value: str) -> Any:
    if _TEXTS.fullmatch(key):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
