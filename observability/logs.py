"""Log lines from events: one line for each, in the form of a terminal or of a machine."""

import logging
import random
import re
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from lifecycle.bus import EventBus
from lifecycle.events import EVENT_TYPES, Event, Level, current_correlation

Format = Literal["console", "json"]
EventDict = MutableMapping[str, Any]

LEVELS: Final[dict[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Characters with which a user's text could forge a line or rewrite the terminal: control
#: characters, line and paragraph separators, and the marks that turn the direction of writing.
_FORGING: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_STDLIB_LOGGERS: Final = ("aiogram", "sqlalchemy", "lifecycle", "db_manager")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class LogLines:
    """The log lines of one bus; `close` ends them.

    Args:
        bus: Whose events become lines.
        level: The lowest level that is shown.
        slow_unit: Seconds from which a unit that ended well is a warning.
        sample: Share of ordinary `uow.close` lines that is shown, 0 to 1; errors and slow units
            always are.
        logger: Where the lines go.
    """

    def __init__(
        self, bus: EventBus, logger: Any, *, level: Level, slow_unit: float, sample: float
    ) -> None:
        self._bus = bus
        self._logger = logger
        self._threshold = LEVELS[level]
        self._slow_unit = slow_unit
        self._sample = sample
        # A topic whose lines would never be shown is not subscribed to: its events are not built.
        topics = [topic for topic, event in EVENT_TYPES.items() if self._may_show(event)]
        self._subscriptions = [bus.subscribe(topic, self._write) for topic in topics]
        self._restore: list[Callable[[], None]] = []

    def _may_show(self, event: type[Event]) -> bool:
        varies = hasattr(event, "log_level")
        return varies or LEVELS[event.level] >= self._threshold

    def _write(self, event: Event) -> None:
        level: str = getattr(event, "log_level", event.level)
        if event.topic == "uow.close":
            level = self._level_of_unit(event, level)
        if LEVELS[level] < self._threshold:
            return
        fields = event.as_dict()
        topic = fields.pop("topic")
        line = {"run": self._bus.run, **{k: v for k, v in fields.items() if v not in ("", ())}}
        self._logger.log(LEVELS[level], topic, **line)

    def _level_of_unit(self, event: Event, level: str) -> str:
        duration: float = getattr(event, "duration", 0.0)
        if level == "info" and duration >= self._slow_unit:
            return "warning"
        if level == "info" and self._sample < 1 and random.random() >= self._sample:  # noqa: S311 -- a sample, not a secret
            return "debug"
        return level

    def close(self) -> None:
        """Write no more lines, and leave the standard library's loggers as they were."""
        for subscription in self._subscriptions:
            subscription.cancel()
        for restore in self._restore:
            restore()


def attach(
    bus: EventBus,
    *,
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
        level: The lowest level that is shown; what is below is not even built.
        format: `console` for people, `json` for machines, one object a line; by default console
            on a terminal and json elsewhere.
        stream: Where lines go; standard error by default.
        slow_unit: Seconds from which a unit that ended well is a warning.
        sample: Share of ordinary unit lines that is shown, 0 to 1.
        stdlib: Show the standard library's logs of aiogram and SQLAlchemy in the same form.

    Returns:
        The lines, to be closed.
    """
    stream = stream or sys.stderr
    if format is None:
        format = "console" if _is_terminal(stream) else "json"  # noqa: A001 -- as above
    renderer = _renderer(format, stream)
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        processors=[structlog.processors.add_log_level, _time_of_event, *renderer],
        context_class=dict,
    )
    lines = LogLines(bus, logger, level=level, slow_unit=slow_unit, sample=sample)
    if stdlib:
        lines._restore.append(_join_stdlib(bus, stream, renderer, level))  # noqa: SLF001 -- made here
    return lines


def add_correlation(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Processor for your own structlog loggers: adds update, handler, plugin and unit."""
    for name, value in current_correlation().as_dict().items():
        fields.setdefault(name, value)
    return fields


def _is_terminal(stream: TextIO) -> bool:
    with suppress(Exception):
        return stream.isatty()
    return False


def _renderer(format: Format, stream: TextIO) -> list[Any]:  # noqa: A002 -- as above
    if format == "json":
        return [structlog.processors.JSONRenderer(serializer=_to_json)]
    console = structlog.dev.ConsoleRenderer(
        colors=_is_terminal(stream), sort_keys=False, pad_event_to=20
    )
    return [_people, _unforgeable, console]


def _to_json(fields: EventDict, **_: object) -> str:
    return _FORGING.sub(_escape, _encode(fields).decode())


def _time_of_event(_logger: object, _method: str, fields: EventDict) -> EventDict:
    at = fields.pop("at", None)
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    fields["timestamp"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return fields


def _people(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Shorten what people read: the time of day, milliseconds."""
    fields["timestamp"] = str(fields.get("timestamp", ""))[11:23]
    for name in ("duration", "database_time", "wait"):
        if isinstance(fields.get(name), float):
            fields[name] = f"{fields[name] * 1000:.1f}ms"
    return fields


def _unforgeable(_logger: object, _method: str, fields: EventDict) -> EventDict:
    for name, value in fields.items():
        if isinstance(value, str) and _FORGING.search(value):
            keep = name in {"exception", "stack"}  # ours, and read line by line
            fields[name] = value if keep else _FORGING.sub(_escape, value)
    return fields


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _join_stdlib(
    bus: EventBus, stream: TextIO, renderer: list[Any], level: Level
) -> Callable[[], None]:
    """Show the standard library's logs in the same form; return what undoes it."""

    def add_run(_logger: object, _method: str, fields: EventDict) -> EventDict:
        return {"run": bus.run, **fields}

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                add_correlation,
                add_run,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _time_of_event,
                *renderer,
            ],
        )
    )
    handler.addFilter(_not_shown_as_event)
    loggers = [logging.getLogger(name) for name in _STDLIB_LOGGERS]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        # At info SQLAlchemy would echo every statement, at a price: that stays `echo`'s to say.
        least = "warning" if logger.name == "sqlalchemy" else "info"
        logger.setLevel(max(LEVELS[level], LEVELS[least]))

    def restore() -> None:
        for logger, old_level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate

    return restore


def _not_shown_as_event(record: logging.LogRecord) -> bool:
    """Drop aiogram's line for each update at info: the canonical lines say more."""
    return not (record.name == "aiogram.event" and record.levelno <= logging.INFO)
