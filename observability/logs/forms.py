"""The two formats of a log line: JSON for machines, aligned columns for people."""

import json
import re
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from lifecycle.event import EVENT_TYPES
from lifecycle.printable import escaped, printable_json, without_token

#: The fields of a line, under structlog's name for them.
EventDict = MutableMapping[str, Any]

#: Names that every line uses for itself.
RESERVED: Final = frozenset(("timestamp", "level", "event"))
#: A text that needs no quotes to be read as one value.
_PLAIN: Final = re.compile(r"[\w./:@+-]+")
_LEVEL_NAMES: Final = {"exception": "error", "warn": "warning", "msg": "info"}

_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_CYAN: Final = "\x1b[36m"
_LEVEL_COLOURS: Final = {"info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


class JsonForm:
    """One object per line; no field can contain a line break."""

    def __call__(self, _logger: object, method: str, fields: EventDict) -> str:
        """Return the line; a structlog processor, the last of its chain."""
        moment, event = datetime.now(UTC), fields.pop("event", "")
        return self.line(moment, _LEVEL_NAMES.get(method, method), event, step_aside(fields))

    def line(self, moment: datetime, level: str, event: object, fields: EventDict) -> str:
        """Return a line.

        Args:
            moment: When it happened.
            level: Name of its level.
            event: The topic, or the message of another logger.
            fields: The other fields, without the names in `RESERVED`.
        """
        line = {"timestamp": moment, "level": level, "event": event, **fields}
        try:
            text = _encode(line).decode()
        except Exception:  # noqa: BLE001 -- encoding somebody's object may raise anything
            text = ",".join(f"{_json(_text(name))}:{_json(line[name])}" for name in line)
            text = f"{{{text}}}"
        return printable_json(text)


class ConsoleForm:
    """Time, level and event in columns, then the fields; a traceback follows, indented.

    Args:
        colours: True on a terminal.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, method: str, fields: EventDict) -> str:
        """Return the line; a structlog processor, the last of its chain."""
        moment, event = datetime.now(UTC), fields.pop("event", "")
        return self.line(moment, _LEVEL_NAMES.get(method, method), event, step_aside(fields))

    def line(self, moment: datetime, level: str, event: object, fields: EventDict) -> str:
        """Return a line; see `JsonForm.line`."""
        clock = moment.isoformat(timespec="milliseconds")[11:23] + "Z"
        event = _text(event)
        exception = fields.pop("exception", None)
        kind = EVENT_TYPES.get(event)
        measures = kind.measures if kind is not None else ()
        parts = [
            self._coloured(_DIM, clock),
            self._coloured(_LEVEL_COLOURS.get(level, _DIM), f"{level:<7}"),
            self._coloured(_BOLD, f"{escaped(event):<20}"),
        ]
        for name, value in fields.items():
            key = name if name.isidentifier() else escaped(_json(_text(name)))
            timed = name in measures and isinstance(value, float)
            text = _seconds(value) if timed else _value(value)
            parts.append(self._coloured(_CYAN, f"{key}=") + text)
        line = " ".join(parts).rstrip()
        if exception is not None:
            # Indented, so that it cannot forge a log line: those start at the left edge.
            below = (f"\n    {escaped(each)}" for each in _text(exception).rstrip().split("\n"))
            line += "".join(below)
        return without_token(line)

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours else text


def step_aside(fields: EventDict) -> EventDict:
    """Rename fields whose name is reserved: append `_` until the name is free.

    Args:
        fields: The fields; changed in place, and returned.
    """
    if not RESERVED.isdisjoint(fields):
        for name in sorted(RESERVED & fields.keys()):
            other = f"{name}_"
            while other in fields:
                other += "_"
            fields[other] = fields.pop(name)
    return fields


def _seconds(value: float) -> str:
    return f"{value:.3f}s" if value >= 1 else f"{value * 1000:.1f}ms"


def _value(value: object) -> str:
    """Return *value* as text that cannot be read as other fields."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return escaped(_json(value))


def _json(value: object) -> str:
    try:
        return _encode(value).decode()
    except Exception:  # noqa: BLE001 -- as in JsonForm
        return json.dumps(_text(value))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 -- str() of somebody's object may do anything
        return f"<{type(value).__name__}>"


_encode: Final = msgspec.json.Encoder(enc_hook=_text).encode
