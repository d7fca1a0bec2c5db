"""The bodies of HTTP: form, multipart or JSON, decoded to the arguments of a method."""

import json
import re
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
    for key, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            given[key] = UploadedFile(value.filename, value.file.read())
        elif isinstance(value, str):
            given[key] = _decode(key, value)
    return _attached(given)


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
        params: Json = {}
        async for part in MultipartReader.from_response(response):
            if isinstance(part, BodyPartReader) and part.name:
                params[part.name] = (
                    UploadedFile(part.filename, bytes(await part.read()))
                    if part.filename
                    else _decode(part.name, await part.text())
                )
        return _attached(params)
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
