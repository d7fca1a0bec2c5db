"""Notices calls of the Bot API that are awaited in an open unit which has written something."""

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import CodeType
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import TelegramMethod
from sqlalchemy import event

from db_manager.database.database import Database
from db_manager.database.open_unit import OpenUnit
from db_manager.database.places import place_text
from db_manager.database.statements import CALLS
from db_manager.dialects.ending_sql import BLANKS
from db_manager.events import EarlyCall
from db_manager.sending import EarlyCallError
from db_manager.unit.uow import UnitOfWork
from lifecycle.correlation import current_correlation

#: Set in the tasks that send what was committed.
BY_RELAY: Final[ContextVar[bool]] = ContextVar("db_manager_by_relay", default=False)
#: A statement that writes, and one that begins or ends a savepoint.
_TOLD: Final = re.compile(
    rf"""{BLANKS} (?:
    (?P<writes> (?: INSERT | UPDATE | DELETE | MERGE | REPLACE | COPY | CALL | DO
                  | CREATE | ALTER | DROP | TRUNCATE ) \b
      | WITH \b .*? \b (?: INSERT \s+ INTO | DELETE \s+ FROM | MERGE \s+ INTO
                         | UPDATE \b .*? \b SET ) \b )
    | SAVEPOINT \s+ (?P<begins> \S+) | RELEASE \s+ (?: SAVEPOINT \s+ )? (?P<keeps> \S+)
    | ROLLBACK \s+ (?: (?: WORK | TRANSACTION ) \s+ )? TO \s+ (?: SAVEPOINT \s+ )? (?P<undoes> \S+)
    )""",  # noqa: S608 -- it recognises SQL
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
#: Who awaits somebody else: a task begins where a frame is none of these.
_AWAITS: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


@lru_cache(maxsize=1024)
def told_by(sql: str) -> tuple[str, str]:
    """Return what a statement says about writing: its kind, and the savepoint it names.

    Args:
        sql: A statement as the driver gets it.

    Returns:
        `writes`, `begins`, `keeps` or `undoes`, the latter three with a name; else two times "".
    """
    found = _TOLD.match(sql)
    if found is None or found.lastgroup is None:
        return "", ""
    return found.lastgroup, found[found.lastgroup].rstrip(";")


class Writers:
    """The units of a database that have written something, while this listens.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        #: Of each: whether it has, and whether it had when a savepoint began.
        self._units: WeakKeyDictionary[OpenUnit, dict[str, bool]] = WeakKeyDictionary()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen during the block."""
        engine = self._database.engine.sync_engine
        for name in CALLS:
            event.listen(engine, name, self._note)
        try:
            yield
        finally:
            for name in CALLS:
                event.remove(engine, name, self._note)

    def running(self) -> OpenUnit | None:
        """Return the open unit of the running task, or that in which the task was started."""
        units = self._database.open
        task = asyncio.current_task()
        if task is not None and task in units:
            return units[task]
        number = current_correlation().unit
        return next((unit for unit in units.values() if unit.number == number), None)

    def has_written(self, unit: OpenUnit) -> bool:
        """Return True if *unit* has something to commit, and nothing prevents that yet."""
        if unit.read_only or unit.failed is not None:
            return False
        about_to = isinstance(unit, UnitOfWork) and unit.is_about_to_write()
        return about_to or self._units.get(unit, {}).get("", False)

    def _note(self, _cursor: object, sql: str, *rest: Any) -> None:
        kind, savepoint = told_by(sql)
        if not kind:
            return
        unit = self._database.checkout.holders.get(rest[-1].root_connection)
        if unit is None or unit.read_only:
            return
        wrote = self._units.setdefault(unit, {"": False})
        match kind:
            case "writes":
                wrote[""] = True
            case "begins":
                wrote[savepoint] = wrote[""]
            case "undoes":
                wrote[""] = wrote.get(savepoint, wrote[""])
            case _:
                wrote.pop(savepoint, None)


class _Noticing:
    """A middleware of the client: tells of early calls, or refuses them.

    Args:
        writers: Knows who has written.
        bots: The bots of this process.
        mode: What becomes of an early call.
        publish: Publishes an event.
    """

    def __init__(
        self,
        writers: Writers,
        bots: Mapping[int, Bot],
        mode: Literal["warn", "refuse"],
        publish: Callable[[EarlyCall], None],
    ) -> None:
        self._writers = writers
        self._bots = bots
        self._mode = mode
        self._publish = publish
        #: Places that were told: there are as many as the code has.
        self._told: set[tuple[CodeType, int]] = set()

    async def __call__(self, make_request: Any, bot: Bot, method: TelegramMethod[Any]) -> Any:
        """Make the call, unless it is refused.

        Raises:
            EarlyCallError: The unit around it has written, and is not committed.
        """
        if bot.id in self._bots and not BY_RELAY.get() and _says_something(method):
            unit = self._writers.running()
            if unit is not None and self._writers.has_written(unit):
                self._tell(unit, bot, method.__api_method__)
        return await make_request(bot, method)

    def _tell(self, unit: OpenUnit, bot: Bot, method: str) -> None:
        here = _caller() or (unit.entered_by, unit.entered_at)
        if self._mode == "refuse":
            raise EarlyCallError(method, place_text(*here))
        if here not in self._told:
            self._told.add(here)
            self._publish(EarlyCall(bot_id=bot.id, method=method, place=place_text(*here)))


@contextmanager
def noticing(
    database: Database,
    bots: Mapping[int, Bot],
    mode: Literal["allow", "warn", "refuse"],
    publish: Callable[[EarlyCall], None],
) -> Iterator[None]:
    """Notice during the block which calls of *bots* come before the commit of their unit.

    Args:
        database: The database of the units.
        bots: The bots.
        mode: `warn` publishes the first one of each place, `refuse` raises `EarlyCallError`, and
            with `allow` nobody looks.
        publish: Publishes an event.
    """
    if mode == "allow" or not bots:
        yield
        return
    writers = Writers(database)
    middleware = _Noticing(writers, bots, mode, publish)
    sessions = {id(bot.session): bot.session for bot in bots.values()}
    with writers.listening():
        for session in sessions.values():
            session.middleware(middleware)
        try:
            yield
        finally:
            for session in sessions.values():
                session.middleware.unregister(middleware)


def _says_something(method: TelegramMethod[Any]) -> bool:
    """Return False for calls that only ask, or say nothing that could turn out wrong."""
    name = method.__api_method__
    return not name.startswith("get") and name != "sendChatAction"


def _caller() -> tuple[CodeType, int] | None:
    """Return where the call of the client is awaited; None when it is a task of its own."""
    frame, is_outside = sys._getframe(1), False  # noqa: SLF001 -- inspect has it only with more around it
    while frame.f_back is not None:
        frame = frame.f_back
        if is_outside and not frame.f_code.co_flags & _AWAITS:
            return None
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if is_outside and module not in {"aiogram", "asyncio"}:
            return frame.f_code, frame.f_lasti
        # Middlewares of the client are between it and this one.
        is_outside = is_outside or frame.f_code is BaseSession.__call__.__code__
    return None
