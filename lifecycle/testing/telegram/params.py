"""The arguments of a call to the Bot API: of the types that its methods know, or refused."""

from collections.abc import Callable
from typing import Any, Final

from lifecycle.testing.telegram.calls import Json

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


def _media(name: str, value: Any) -> list[Json]:
    # Each has a `media` of its own, which is a text.
    return [
        {**each, **checked({key: each[key] for key in each if key != "media"})}
        for each in _array_of(dict)(name, value)
    ]


def _wrong(name: str, kind: str) -> ValueError:
    return _refused(f'field "{name}" must be of type {kind}')


def _refused(description: str) -> ValueError:
    return ValueError(description)


_TYPES: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("offset", "limit", "timeout", "message_id"), _integer),
    **dict.fromkeys(
        ("text", "caption", "parse_mode", "url", "secret_token", "callback_query_id"), _text
    ),
    **dict.fromkeys(("entities", "caption_entities", "commands"), _array_of(dict)),
    "allowed_updates": _array_of(str),
    "chat_id": _chat,
    "media": _media,
    "reply_markup": _markup,
    "scope": _object,
}
