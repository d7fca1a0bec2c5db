"""Shows a chat and, beside it, what the plugins and units of work did meanwhile."""

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lifecycle import Event, PluginEvent
from lifecycle.errors import counted

#: From this width on the chat and the trace stand side by side.
WIDE = 110
_CHAT = 40  # width of the chat beside the trace
_WHO, _TOPIC = 8, 24
_NOT_SAID = {"signal", "process", "kill -9"}
_TOGETHER = 0.05  # seconds within which a message and what it caused share a line

Style = Literal["", "bold", "dim", "red", "green", "yellow", "cyan"]
_CODES: dict[Style, str] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
_STYLES: dict[str, Style] = {
    "uow.commit": "green",
    "uow.rollback": "red",
    "plugin.failed": "red",
    "database.migrated": "cyan",
    "app.drained": "yellow",
    "app.started": "green",
    "app.stopped": "green",
    "plugin.started": "cyan",
    "plugin.stopped": "cyan",
    "uow.begin": "",
}


@dataclass(frozen=True)
class Entry:
    """One thing that happened, on one side of the screen.

    Args:
        at: Seconds since the begin.
        side: Which column.
        who: Speaker, or topic of the event.
        what: What was said, or happened.
        style: How it looks.
    """

    at: float
    side: Literal["chat", "trace"]
    who: str
    what: str
    style: Style = ""


def said(at: float, who: str, what: str) -> Entry:
    """Return the entry for a line of the chat."""
    if who.startswith("bot to "):
        return Entry(at, "chat", "  bot", what, "dim")
    return Entry(at, "chat", who, what, "yellow" if who in _NOT_SAID else "bold")


def happened(at: float, event: Event) -> Entry | None:
    """Return the entry for an event; None for a detail, or the first of a pair with `…ing`."""
    if event.level == "debug" and event.topic not in _TOLD:
        return None
    return Entry(at, "trace", event.topic, _describe(event), _STYLES.get(event.topic, "dim"))


def _describe(event: Event) -> str:
    if event.topic in _TOLD:
        return _TOLD[event.topic](event)
    return f"{event.plugin}, {_ms(event)}" if isinstance(event, PluginEvent) else ""


def _ms(event: Event) -> str:
    return f"{getattr(event, 'duration', 0.0) * 1000:.1f} ms"


def _handler(event: Event) -> str:
    return ".".join((event.correlation.handler or "").rsplit(".", 2)[-2:])


_TOLD: dict[str, Callable[[Any], str]] = {
    "uow.begin": lambda e: f"unit {e.unit}, {_handler(e)}{', read only' * e.read_only}",
    "uow.commit": lambda e: f"unit {e.unit}",
    "uow.rollback": lambda e: f"unit {e.unit}, {e.error}",
    "uow.close": lambda e: f"unit {e.unit}, {counted(e.statements, 'statement')}, {_ms(e)}",
    "database.migrating": lambda e: f"{e.plugin}, {e.previous or 'nothing'} to {e.revision}",
    "database.migrated": lambda e: f"{e.plugin}, {e.revision}, {_ms(e)}",
    "database.tables_created": lambda e: ", ".join(e.tables),
    "database.drained": lambda e: f"units still open: {e.waited}",
    "app.crashed": lambda e: f"run {e.run}, after {e.last_topic} {e.last_plugin}".rstrip(),
    "app.started": lambda e: f"{', '.join(e.plugins)}, {_ms(e)}",
    "app.drained": lambda e: f"{e.waited} waited for, {len(e.cancelled)} cancelled, {_ms(e)}",
    "app.stopped": lambda e: f"{counted(len(e.errors), 'error')}, {_ms(e)}",
    "service.provided": lambda e: e.service,
    "service.withdrawn": lambda e: e.service,
    "plugin.failed": lambda e: f"{e.plugin}, {e.hook}: {e.error}",
    "subscriber.failed": lambda e: f"{e.subscriber}, {e.failed_topic}: {e.error}",
}


class Screen:
    """Where it is shown: wide or narrow, with colours on a terminal that wants them."""

    def __init__(self) -> None:
        self.width = shutil.get_terminal_size(fallback=(120, 24)).columns
        self._begin = 0.0
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, text: str, style: Style) -> str:
        """Return *text* in a style, or as it is where there are no colours."""
        code = _CODES.get(style) if self._colours and text.strip() else None
        return f"\033[{code}m{text}\033[0m" if code else text

    def title(self, *columns: tuple[str, int]) -> None:
        """Print the head of columns, each a text with its width."""
        text = "  ".join(f"{text} ".ljust(width, "─") for text, width in columns)
        print(f"\n{self.paint(text, 'bold')}")

    def show(self, entries: Iterable[Entry]) -> None:
        """Print the chat beside the trace, or before it where there is no room beside."""
        entries = sorted(entries, key=lambda entry: entry.at)
        self._begin = entries[0].at if entries else 0.0
        if self.width < WIDE:
            for side, title in (("chat", "chat"), ("trace", "lifecycle and units of work")):
                self.title((f"{'':8}{title}", self.width))
                for entry in entries:
                    if entry.side == side:
                        self._rows([entry], self.width - 8)
            return
        self.title(
            (f"{'':8}chat", 8 + _CHAT), ("lifecycle and units of work", self.width - _CHAT - 10)
        )
        message: Entry | None = None
        for entry in entries:
            if entry.side == "trace" and message and entry.at - message.at < _TOGETHER:
                self._rows([message, entry], _CHAT)
                message = None
                continue
            if message:
                self._rows([message], _CHAT)
                message = None
            if entry.side == "chat":
                message = entry
            else:
                self._rows([None, entry], _CHAT)
        if message:
            self._rows([message], _CHAT)

    def tell(self, title: str, entries: Sequence[Entry]) -> None:
        """Print a chat over the whole width."""
        self.title((f"{'':8}{title}", self.width))
        self._begin = entries[0].at if entries else 0.0
        for entry in entries:
            self._rows([entry], self.width - 8)

    def _rows(self, cells: list[Entry | None], width: int) -> None:
        """Print one entry, or two side by side; *width* is the first one's."""
        first = next(cell for cell in cells if cell is not None)
        left = self._cell(cells[0], width)
        room = self.width - width - 10
        right = self._cell(cells[1], room) if len(cells) > 1 else []
        blank = [" " * width] * len(right)
        for index in range(max(len(left), len(right))):
            time = f"{first.at - self._begin:6.2f}  " if index == 0 else " " * 8
            here = (left or blank)[index] if index < len(left or blank) else " " * width
            beside = f"  {right[index]}" if index < len(right) else ""
            print(f"{self.paint(time, 'dim')}{here}{beside}".rstrip())

    def _cell(self, entry: Entry | None, width: int) -> list[str]:
        """Return an entry as lines of *width* characters."""
        if entry is None:
            return []
        indent = _WHO if entry.side == "chat" else _TOPIC
        lines = [
            line
            for part in entry.what.splitlines() or [""]
            for line in textwrap.wrap(part, width - indent) or [""]
        ]
        heads = [entry.who, *[""] * (len(lines) - 1)]
        cells = [f"{head:<{indent}}{line}" for head, line in zip(heads, lines, strict=True)]
        return [self.paint(f"{cell:<{width}}", entry.style) for cell in cells]
