"""The arguments of a call to the Bot API: of the types that its methods know, or refused."""

from collections.abc import Callable
from typing import Any, Final

from lifecycle.testing.telegram.calls import Json

_INTEGERS: Final = ("offset", "limit", "timeout", "message_id", "duration", "width", "height")
_TEXTS: Final = (
    *("text", "caption", "parse_mode", "url", "secret_token", "file_id", "emoji", "question"),
    *("callback_query_id", "inline_query_id", "pre_checkout_query_id", "error_message"),
    *("title", "description", "payload", "currency", "provider_token", "start_parameter"),
    *("phone_number", "first_name", "last_name", "vcard", "address", "type"),
)
_TRUTHS: Final = ("ok", "show_alert", "is_flexible", "is_anonymous", "allows_multiple_answers")
#: Telegram's largest number.
_LARGEST: Final = 2**63 - 1


def checked(params: Json) -> Json:
    """Return *params* as the methods expect them; what they do not look at stays as it is.

    Args:
        params: Decoded arguments.

    Raises:
        ValueError: One is of a wrong type; the text is in Telegram's words.
    """
    return {
        name: _TYPES[name](name, value) if name in _TYPES else value
        for name, value in params.items()
    }


def _integer(name: str, value: Any) -> int:
    if isinstance(value, str) and value.lstrip("-").isdecimal() and len(value) < 20:  # noqa: PLR2004 -- digits of the largest
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise _wrong(name, "Number")
    return value


def _text(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _wrong(name, "String")
    return value


def _chat(name: str, value: Any) -> int | str:
    if isinstance(value, str) and not value.lstrip("-").isdecimal():
        return value  # a user name
    return _integer(name, value)


def _object(name: str, value: Any) -> Json:
    if not isinstance(value, dict):
        raise _refused(f"can't parse {name.replace('_', ' ')} JSON object")
    return value


def _markup(name: str, value: Any) -> Json:
    markup = _object(name, value)
    if "inline_keyboard" not in markup:
        return markup
    rows = markup["inline_keyboard"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise _wrong("inline_keyboard", "Array of Arrays")
    for button in [button for row in rows for button in row]:
        if not isinstance(button, dict) or not isinstance(button.get("text"), str):
            raise _refused('can\'t parse inline keyboard button: field "text" must be String')
    return markup


def _array_of(kind: type) -> Callable[[str, Any], list[Any]]:
    def check(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
            raise _wrong(name, f"Array of {'String' if kind is str else 'Object'}")
        return value

    return check


def _media(name: str, value: Any) -> Any:
    if isinstance(value, dict):  # of editMessageMedia; an album has a list
        return _part(value)
    return [_part(each) for each in _array_of(dict)(name, value)]


def _part(media: Json) -> Json:
    # It has a `media` of its own, which is a file.
    return {**media, **checked({key: media[key] for key in media if key != "media"})}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "Number")
    if not -_LARGEST <= value <= _LARGEST:  # nan is nowhere
        raise _wrong(name, "Number")
    return value


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "Boolean")
    return value


def _prices(name: str, value: Any) -> list[Json]:
    for price in _array_of(dict)(name, value):
        _text("label", price.get("label"))
        if not isinstance(price.get("amount"), int):  # a text of digits would not add up
            raise _wrong("amount", "Number")
        _integer("amount", price["amount"])
    return list(value)


def _options(name: str, value: Any) -> list[Any]:
    for each in _array(name, value):
        if not isinstance(each.get("text") if isinstance(each, dict) else each, str):
            raise _wrong(name, "Array of InputPollOption")
    return list(value)


def _array(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(name, "Array")
    return value


def _wrong(name: str, kind: str) -> ValueError:
    return _refused(f'field "{name}" must be of type {kind}')


def _refused(description: str) -> ValueError:
    return ValueError(description)


_TYPES: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(_INTEGERS, _integer),
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(("latitude", "longitude"), _number),
    **dict.fromkeys(_TRUTHS, _truth),
    **dict.fromkeys(("entities", "caption_entities", "commands", "results"), _array_of(dict)),
    "allowed_updates": _array_of(str),
    "chat_id": _chat,
    "from_chat_id": _chat,
    "prices": _prices,
    "options": _options,
    "media": _media,
    "reply_markup": _markup,
    "scope": _object,
}
