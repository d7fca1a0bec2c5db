"""Texts with `parse_mode=HTML`, read and refused as the Bot API does."""

import html
import re
from typing import Any

_TYPES = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "span": "spoiler",
    "tg-spoiler": "spoiler",
    "tg-emoji": "custom_emoji",
    "a": "text_link",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
}

# Tag, one of the few character references Telegram knows, or text.
_TOKEN = re.compile(
    r"<(?P<end>/?)(?P<name>[\w-]*)(?P<attributes>[^>]*)(?P<closed>>?)"
    r"|(?P<reference>&(?:lt|gt|amp|quot|#\d+|#x[0-9a-fA-F]+);)"
    r"|[^<&]+|&"
)
_ATTRIBUTE = re.compile(r"""(href|emoji-id|class)\s*=\s*["']?([^"'>]*)""")


class HtmlError(ValueError):
    """The text is refused; the message is what Telegram says."""


def utf16_length(text: str) -> int:
    """Return the length of *text* in UTF-16 code units, as Telegram counts."""
    return len(text.encode("utf-16-le")) // 2


def parse(source: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the text that people see, and its entities.

    Args:
        source: Text with tags.

    Returns:
        Plain text, and entities as the Bot API describes them, in order.

    Raises:
        HtmlError: Telegram would refuse it.
    """
    text = ""
    entities: list[dict[str, Any]] = []
    unclosed: list[tuple[str, dict[str, Any]]] = []
    for token in _TOKEN.finditer(source):
        name = (token["name"] or "").lower()
        if token["name"] is None:
            text += html.unescape(token[0]) if token["reference"] else token[0]
        elif not token["closed"]:
            raise HtmlError(f"Unclosed start tag at byte offset {_offset(source, token)}")
        elif token["end"]:
            _close(source, token, name, text, unclosed)
        elif name not in _TYPES:
            where = _offset(source, token)
            raise HtmlError(f'Unsupported start tag "{name}" at byte offset {where}')
        else:
            entity = {"type": _TYPES[name], "offset": utf16_length(text), "length": 0}
            attributes = dict(_ATTRIBUTE.findall(token["attributes"]))
            if "href" in attributes:
                entity["url"] = html.unescape(attributes["href"])
            if "emoji-id" in attributes:
                entity["custom_emoji_id"] = attributes["emoji-id"]
            language = attributes.get("class", "").removeprefix("language-")
            if name == "code" and unclosed and unclosed[-1][0] == "pre" and language:
                unclosed[-1][1]["language"] = language
            else:
                entities.append(entity)
            unclosed.append((name, entity))
    if unclosed:
        raise HtmlError(f'Can\'t find end tag corresponding to start tag "{unclosed[-1][0]}"')
    return text, [entity for entity in entities if entity["length"]]


def _close(
    source: str,
    token: re.Match[str],
    name: str,
    text: str,
    unclosed: list[tuple[str, dict[str, Any]]],
) -> None:
    if not unclosed:
        raise HtmlError(f"Unexpected end tag at byte offset {_offset(source, token)}")
    expected, entity = unclosed.pop()
    if name not in {expected, ""}:
        raise HtmlError(
            f"Unmatched end tag at byte offset {_offset(source, token)}, "
            f'expected "</{expected}>", found "</{name}>"'
        )
    entity["length"] = utf16_length(text) - entity["offset"]


def _offset(source: str, token: re.Match[str]) -> int:
    return len(source[: token.start()].encode())
