"""A call of the Bot API as JSON, and back: what a row keeps of it until it is sent."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, Final
from uuid import uuid4

import aiogram.methods
from aiogram import Bot
from aiogram.client.default import Default
from aiogram.methods import TelegramMethod
from aiogram.types import InputFile
from pydantic import BaseModel

from db_manager.delivery.calls.files import FilesOf, has_markers, put_back
from db_manager.delivery.table.claims import KeptFile
from db_manager.sending import NotStorableError

#: Fields that say whose order a call is a part of.
_LANES: Final = ("chat_id", "inline_message_id")


class StrangeMethodError(LookupError):
    """A newer release has written a message with a method that this one does not know."""


def stored(method: TelegramMethod[Any], max_file: int = 0) -> tuple[str, list[KeptFile]]:
    """Return the fields of *method* as JSON, and its files.

    What the bot fills in by its `default` stays open; a time from now on becomes a moment.

    Args:
        method: The call.
        max_file: Bytes that a file has at most.

    Raises:
        NotStorableError: A file is too large, or a field is of a kind that cannot be kept.
        OSError: A file cannot be read.
    """
    files = FilesOf(method.__api_method__, max_file)
    fields = dict(_fields(files, "", method))
    return json.dumps(fields), files.found


def loaded(
    name: str, payload: str, bot: Bot, files: Iterable[KeptFile] = ()
) -> TelegramMethod[Any]:
    """Return the call that `stored` was given.

    Args:
        name: Name of the method.
        payload: Its fields.
        bot: Who sends it.
        files: Its files.

    Raises:
        StrangeMethodError: This release of aiogram does not know the method.
        LookupError: A file is not there.
    """
    method = _methods().get(name)
    if method is None:
        raise StrangeMethodError(name)
    fields = json.loads(payload)
    if has_markers(payload):
        fields = put_back(fields, {file.field: file for file in files})
    return method.model_validate(fields, context={"bot": bot})


def lane_of(bot_id: int, method: TelegramMethod[Any]) -> str:
    """Return the lane of *method*: that of its chat, or one of its own.

    Args:
        bot_id: The bot.
        method: The call.
    """
    for field in _LANES:
        if (value := getattr(method, field, None)) is not None:
            return f"{bot_id}:{value}"
    return f"{bot_id}:-{uuid4().hex}"


@cache
def _methods() -> Mapping[str, type[TelegramMethod[Any]]]:
    found = {}
    for name in aiogram.methods.__all__:
        method = getattr(aiogram.methods, name)
        if isinstance(getattr(method, "__api_method__", None), str):
            found[method.__api_method__] = method
    return found


def _fields(files: FilesOf, path: str, model: BaseModel) -> Iterator[tuple[str, Any]]:
    given = model.model_fields_set
    for name in [*type(model).model_fields, *(model.model_extra or ())]:
        value = getattr(model, name)
        if isinstance(value, Default) or (value is None and name not in given):
            continue  # filled in when it is read, by its own default
        yield name, _value(files, f"{path}.{name}" if path else name, value)


def _value(files: FilesOf, path: str, value: Any) -> Any:
    plain: Any
    match value:
        case Enum():
            plain = value.value
        case str() | int() | float() | None:
            plain = value
        case datetime():
            plain = round(value.timestamp())
        case timedelta():
            plain = round(time.time() + value.total_seconds())
        case BaseModel():
            plain = dict(_fields(files, path, value))
        case Mapping():
            plain = {key: _value(files, f"{path}[{key!r}]", each) for key, each in value.items()}
        case list() | tuple():
            plain = [_value(files, f"{path}[{n}]", each) for n, each in enumerate(value)]
        case InputFile():
            plain = files.take(path, value)
        case _:
            fix = f"is of the type {type(value).__name__}, which JSON does not know"
            raise NotStorableError(files.method, path, fix)
    return plain
