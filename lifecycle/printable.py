"""Somebody's text on its way to a terminal or into a log: it can forge nothing there."""

import re
from typing import Final

#: Characters with which somebody's text could forge a line or rewrite the terminal: control
#: characters, line and paragraph separators, marks that turn the direction of writing, and halves
#: of a character, which no stream takes.
_FORGING: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
#: The token of a bot stands in the address of every request, so in errors of the HTTP client too.
_TOKEN: Final = re.compile(r"(?<!\d)(\d{5,20}):A[A-Za-z0-9_-]{30,}")


def printable(text: str) -> str:
    """Return *text* fit for one line of a terminal: escaped, and without the token of a bot."""
    return without_token(escaped(text))


def printable_lines(text: str) -> str:
    """Return *text* fit for a terminal; it may have several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """Return JSON, as msgspec writes it, fit for one line of a terminal; it means the same."""
    if not text.isascii() or "\x7f" in text:  # JSON has escaped the other control characters
        text = _FORGING.sub(_escape, text)
    return without_token(text) if "A" in text else text  # a call for each line


def escaped(text: str) -> str:
    """Return *text* without characters that forge; see `_FORGING`."""
    if text.isascii() and text.isprintable():
        return text  # nearly every text; cheaper than to search it
    return _FORGING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04x}"


def without_token(line: str) -> str:
    """Return *line* with `***` in place of the secret part of a bot's token."""
    # A line is full of colons: one letter is found in a tenth of the time.
    return _TOKEN.sub(r"\1:***", line) if "A" in line and ":A" in line else line
