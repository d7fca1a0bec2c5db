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
    reader = _Reader(source)
    for token in _TOKEN.finditer(source):
        reader.read(token)
    if reader.unclosed:
        name, _ = reader.unclosed[-1]
        raise HtmlError(f'Can\'t find end tag corresponding to start tag "{name}"')
    return reader.text, [entity for entity in reader.entities if entity["length"]]


class _Reader:
    """Reads one text, token by token.

    Args:
        source: The text with its tags.

    Attributes:
        text: What people see of it so far.
        entities: The entities so far, in the order their tags opened.
        unclosed: Names and entities of the tags that are open, the innermost last.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.text = ""
        self.entities: list[dict[str, Any]] = []
        self.unclosed: list[tuple[str, dict[str, Any]]] = []

    def read(self, token: re.Match[str]) -> None:
        """Take the next token: text, a start tag or an end tag.

        Raises:
            HtmlError: The tag is not closed by a `>`, is not supported, or ends no open tag.
        """
        if token["name"] is None:
            self._text(token)
        elif not token["closed"]:
            raise HtmlError(f"Unclosed start tag at byte offset {self._offset(token)}")
        elif token["end"]:
            self._close(token, token["name"].lower())
        else:
            self._open(token, token["name"].lower())

    def _text(self, token: re.Match[str]) -> None:
        self.text += html.unescape(token[0]) if token["reference"] else token[0]

    def _open(self, token: re.Match[str], name: str) -> None:
        if name not in _TYPES:
            raise HtmlError(f'Unsupported start tag "{name}" at byte offset {self._offset(token)}')
        attributes = dict(_ATTRIBUTE.findall(token["attributes"]))
        entity = {"type": _TYPES[name], "offset": utf16_length(self.text), "length": 0}
        if "href" in attributes:
            entity["url"] = html.unescape(attributes["href"])
        if "emoji-id" in attributes:
            entity["custom_emoji_id"] = attributes["emoji-id"]
        language = attributes.get("class", "").removeprefix("language-")
        if name == "code" and language and self.unclosed and self.unclosed[-1][0] == "pre":
            self.unclosed[-1][1]["language"] = language  # both tags are one entity
        else:
            self.entities.append(entity)
        self.unclosed.append((name, entity))

    def _close(self, token: re.Match[str], name: str) -> None:
        if not self.unclosed:
            raise HtmlError(f"Unexpected end tag at byte offset {self._offset(token)}")
        expected, entity = self.unclosed.pop()
        if name not in {expected, ""}:
            raise HtmlError(
                f"Unmatched end tag at byte offset {self._offset(token)}, "
                f'expected "</{expected}>", found "</{name}>"'
            )
        entity["length"] = utf16_length(self.text) - entity["offset"]

    def _offset(self, token: re.Match[str]) -> int:
        """Return where *token* begins, in bytes, as Telegram counts."""
        return len(self._source[: token.start()].encode())
