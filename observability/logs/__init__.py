"""Log lines from events: aligned columns for a terminal, JSON for machines."""

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TextIO

from lifecycle.bus import EventBus
from lifecycle.event import Level
from observability.logs.foreign import add_correlation, join_stdlib, join_structlog
from observability.logs.forms import ConsoleForm, JsonForm
from observability.logs.lines import LEVELS, Emit, LogLines, MakeFields
from observability.logs.writer import LineWriter

__all__ = ["Format", "LogLines", "add_correlation", "attach"]

Format = Literal["console", "json"]


def attach(
    bus: EventBus,
    *,
    logger: Any = None,
    level: Level = "info",
    format: Format | None = None,  # noqa: A002 -- the key of config.toml
    stream: TextIO | None = None,
    slow_unit: float = 1.0,
    sample: float = 1.0,
    stdlib: bool = True,
) -> LogLines:
    """Turn the events of *bus* into log lines.

    Args:
        bus: The bus.
        logger: A structlog logger of your own that gets the events instead of *stream*; *format*,
            *stream* and *stdlib* are ignored then.
        level: The lowest level that is shown; events below it are not even made.
        format: `console`, or `json` with one object per line; by default console on a terminal and
            json elsewhere.
        stream: Where lines are written, by a thread; standard error by default.
        slow_unit: Seconds from which the line of a unit that ended well is a warning.
        sample: Share of units whose ordinary lines are shown, 0 to 1; warnings and errors are
            always shown.
        stdlib: Show the lines of other loggers (aiogram, SQLAlchemy, your own, of the standard
            library or structlog) too, in the same format and with the correlation of their task.

    Returns:
        The log lines; close them to detach.
    """
    if logger is not None:
        return LogLines(bus, _to(logger), level=level, slow_unit=slow_unit, sample=sample)
    stream = stream or sys.stderr
    form = _form(format, stream)
    writer = LineWriter(
        stream, lambda lost: form(None, "error", {"event": "log.lost", "lines": lost})
    )
    emit = _through(writer, form)
    lines = LogLines(bus, emit, level=level, slow_unit=slow_unit, sample=sample)
    lines.writer = writer
    lines.closers.append(writer.close)
    if stdlib:
        lines.closers.append(join_stdlib(writer, form, bus, LEVELS[level]))
        lines.closers.append(join_structlog(writer, form, bus, LEVELS[level]))
    return lines


def _form(name: Format | None, stream: TextIO) -> JsonForm | ConsoleForm:
    terminal = False
    with suppress(Exception):
        terminal = stream.isatty()
    if name == "json" or (name is None and not terminal):
        return JsonForm()
    return ConsoleForm(colours=terminal and not os.environ.get("NO_COLOR"))


def _to(logger: Any) -> Emit:
    def emit(level: Level, topic: str, make: MakeFields) -> None:
        getattr(logger, level)(topic, **make())

    return emit


def _through(writer: LineWriter, form: JsonForm | ConsoleForm) -> Emit:
    def render(level: Level, topic: str, make: MakeFields) -> str:
        fields = make()
        moment = datetime.fromtimestamp(fields.pop("at"), UTC)
        return form.line(moment, level, topic, fields)

    def emit(level: Level, topic: str, make: MakeFields) -> None:
        writer.write(partial(render, level, topic, make))

    return emit
