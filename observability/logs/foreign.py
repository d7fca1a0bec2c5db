"""Formats the lines of other loggers like ours: the standard library's and structlog's."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Final

import structlog

from lifecycle.bus import EventBus
from lifecycle.correlation import current_correlation
from lifecycle.errors import counted
from observability.logs.forms import EventDict
from observability.logs.writer import LineWriter

#: Below these levels libraries log noise: statements with their values, what events say already.
_QUIET: Final = {
    "aiosqlite": logging.WARNING,
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
}
#: Longer texts, in characters, are shortened in the middle.
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
    """Show the lines of the standard library's loggers.

    A handler of the root logger that writes to the same stream, as `logging.basicConfig` makes
    one, is put aside meanwhile; others stay. Several may have joined: a stream shows the form of
    the last one, and the lowest of their levels passes the root logger.

    Args:
        writer: Writes the lines.
        form: Formats a line.
        bus: Its run is added to the lines.
        level: The lowest level that is shown.

    Returns:
        What leaves; when nobody is left, the loggers are as they were.
    """
    handler = _Handler(writer, form, bus, level)
    _joined.add(handler)
    return partial(_joined.remove, handler)


def join_structlog(
    writer: LineWriter, form: _Processor, bus: EventBus, level: int
) -> Callable[[], None]:
    """Show what structlog's loggers log, unless somebody else has configured structlog.

    Args:
        writer: Takes the lines; the last one that joined has them.
        form: Makes a line of fields.
        bus: Whose run they belong to.
        level: The lowest level that is shown.

    Returns:
        What leaves; when nobody is left, structlog is as it was.
    """
    if structlog.is_configured() and not _is_ours():
        return lambda: None
    configuration: dict[str, Any] = {
        "processors": [structlog.contextvars.merge_contextvars, *_chain(bus), form],
        "wrapper_class": structlog.make_filtering_bound_logger(level),
        "logger_factory": lambda *_: _Sink(writer),
        "cache_logger_on_first_use": False,  # a cached logger would outlive `close`
    }
    _configurations.append(configuration)
    structlog.configure(**configuration)

    def leave() -> None:
        ours = _is_ours()
        with suppress(ValueError):  # it has left
            _configurations.remove(configuration)
        if ours and _configurations:
            structlog.configure(**_configurations[-1])
        elif ours:
            structlog.reset_defaults()

    return leave


#: How those that joined structlog want it, the last one last.
_configurations: Final[list[dict[str, Any]]] = []


def _is_ours() -> bool:
    processors = structlog.get_config()["processors"]
    return any(each["processors"] is processors for each in _configurations)


class _Sink:
    """A logger as structlog needs it: one method for each level."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter, form: _Processor, bus: EventBus, level: int) -> None:
        super().__init__(level)
        self.stream = writer.stream  # so that a second handler for it removes this one
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
        except Exception:  # noqa: BLE001 -- wrong arguments of a log call; logging reports which
            self.handleError(record)
        else:
            self._writer.write(line)


class _Joined:
    """Those of us that show what the root logger gets, and how it was before the first."""

    def __init__(self) -> None:
        self._handlers: list[_Handler] = []
        self._aside: list[logging.Handler] = []
        self._levels: dict[logging.Logger, int] = {}
        self._changing = Lock()  # bots may have a thread each

    def add(self, handler: _Handler) -> None:
        """Let *handler* show the lines from here on."""
        with self._changing:
            if not self._handlers:
                self._begin()
            self._handlers.append(handler)
            self._arrange()

    def remove(self, handler: _Handler) -> None:
        """Let it show them no more."""
        with self._changing:
            if handler not in self._handlers:
                return
            self._handlers.remove(handler)
            logging.getLogger().removeHandler(handler)
            self._arrange()
            if not self._handlers:
                for logger, before in self._levels.items():
                    logger.setLevel(before)

    def _begin(self) -> None:
        root = logging.getLogger()
        self._levels = {root: root.level}
        for name, least in _QUIET.items():
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                self._levels[logger] = logger.level
                logger.setLevel(least)

    def _arrange(self) -> None:
        root = logging.getLogger()
        shown = {id(each.stream): each for each in self._handlers}  # of a stream the last
        for each in [*root.handlers]:
            ours = shown.get(id(getattr(each, "stream", None)))
            if ours is not None and ours is not each:
                root.removeHandler(each)
                if each not in self._handlers:
                    self._aside.append(each)
        for each in [*self._aside]:
            if id(getattr(each, "stream", None)) not in shown:
                self._aside.remove(each)
                root.addHandler(each)
        for mine in shown.values():
            root.addHandler(mine)
        if self._handlers:
            root.setLevel(min(each.level for each in self._handlers))


_joined: Final = _Joined()


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
            fields[name] = f"{value[:half]} … {counted(left_out, 'character')} … {value[-half:]}"
    return fields


def _says_more_than_a_unit(record: logging.LogRecord) -> bool:
    """Return False for aiogram's line for each handled update: its unit's line has more."""
    return not (
        record.name == "aiogram.event"
        and record.levelno == logging.INFO
        and isinstance(record.args, tuple)
        and "handled" in record.args
    )
