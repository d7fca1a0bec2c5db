"""Brings the lines of other loggers into our form: the standard library's and structlog's."""

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog

from lifecycle.bus import EventBus
from lifecycle.correlation import current_correlation
from observability.logs.forms import EventDict
from observability.logs.writer import LineWriter

#: Libraries that say below this level what nobody wants to read: statements with their values, and
#: each step of the state machine, which is an event already.
_QUIET: Final = {
    "aiosqlite": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "transitions": logging.WARNING,
}
#: A text of more characters than this is shortened in the middle.
_LONGEST: Final = 8000

_Processor = Callable[[Any, str, EventDict], Any]


def add_correlation(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Add update, handler, plugin and unit; a processor for structlog loggers of your own."""
    for name, value in current_correlation().as_dict().items():
        fields.setdefault(name, value)
    return fields


def join_stdlib(
    writer: LineWriter, form: _Processor, bus: EventBus, level: int
) -> Callable[[], None]:
    """Show what the standard library's loggers log.

    A handler of the root logger that writes to the same stream, as `logging.basicConfig` makes
    one, is put aside meanwhile; others stay.

    Args:
        writer: Takes the lines.
        form: Makes a line of fields.
        bus: Whose run they belong to.
        level: The lowest level that is shown.

    Returns:
        What leaves the loggers as they were.
    """
    handler = _Handler(writer, form, bus, level)
    root = logging.getLogger()
    aside = [each for each in root.handlers if getattr(each, "stream", None) is writer.stream]
    levels = {root: root.level}
    for each in aside:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _QUIET.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            levels[logger] = logger.level
            logger.setLevel(least)

    def leave() -> None:
        root.removeHandler(handler)
        for each in aside:
            root.addHandler(each)
        for logger, before in levels.items():
            logger.setLevel(before)

    return leave


def join_structlog(
    writer: LineWriter, form: _Processor, bus: EventBus, level: int
) -> Callable[[], None]:
    """Show what structlog's loggers log, unless somebody has configured structlog.

    Args:
        writer: Takes the lines.
        form: Makes a line of fields.
        bus: Whose run they belong to.
        level: The lowest level that is shown.

    Returns:
        What leaves structlog as it was.
    """
    if structlog.is_configured():
        return lambda: None
    chain = [structlog.contextvars.merge_contextvars, *_chain(bus), form]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Sink(writer),
        cache_logger_on_first_use=False,  # a cached logger would outlive `close`
    )

    def leave() -> None:
        if structlog.get_config()["processors"] is chain:
            structlog.reset_defaults()

    return leave


class _Sink:
    """Has the method that structlog looks for, whatever the level."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter, form: _Processor, bus: EventBus, level: int) -> None:
        super().__init__(level)
        self.stream = writer.stream  # a second handler for it puts this one aside
        self._writer = writer
        self.addFilter(_says_more_than_a_unit)
        self.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.add_logger_name],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_chain(bus),
                    form,
                ],
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- wrong arguments of somebody's call: logging says whose
            self.handleError(record)
        else:
            self._writer.write(line)


def _chain(bus: EventBus) -> list[_Processor]:
    def add_run(_logger: object, _method: str, fields: EventDict) -> EventDict:
        fields.setdefault("run", bus.run)
        return fields

    return [structlog.processors.format_exc_info, add_correlation, add_run, _shorten]


def _shorten(_logger: object, _method: str, fields: EventDict) -> EventDict:
    half = _LONGEST // 2
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            left_out = len(value) - _LONGEST
            fields[name] = f"{value[:half]} … {left_out} characters … {value[-half:]}"
    return fields


def _says_more_than_a_unit(record: logging.LogRecord) -> bool:
    """Drop aiogram's line for each handled update: the line of its unit says more."""
    return not (
        record.name == "aiogram.event"
        and record.levelno == logging.INFO
        and isinstance(record.args, tuple)
        and "handled" in record.args
    )
