"""The line for SQLite's one writer: units and sessions of other code, first come, first served."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakMethod

from sqlalchemy.engine import Dialect
from sqlalchemy.util.queue import Empty

from db_manager.engine.fair_queue import FairQueue

#: Attribute of SQLAlchemy's dialect that holds its line: each engine has its own dialect.
_MARK: Final = "db_manager_writer"
#: Longest wait in seconds where no configuration says another.
_TIMEOUT: Final = 5.0
#: True in a task whose sessions outside of units wait at the head of the line. It has to be one
#: that comes back only after its turn: then others have every second one.
GOES_FIRST: Final[ContextVar[bool]] = ContextVar("db_manager_goes_first", default=False)


class OneWriter(FairQueue[None]):
    """The line for the one writer of an engine.

    Waiting here is fair and cheap. In the drivers' threads it would poll, and somebody could
    starve.

    Args:
        timeout: Longest wait of a session outside of units, in seconds.
    """

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        super().__init__(1)
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The driver's connection that may write now.
        self.holder: object = None
        #: The task of the unit or session that writes.
        self.task: asyncio.Task[Any] | None = None
        self._describe_unit: WeakMethod[Callable[[], str]] | None = None
        self.put_nowait(None)

    @classmethod
    def of(cls, dialect: Dialect, timeout: float = _TIMEOUT) -> "OneWriter":
        """Return the line of the engine with *dialect*; it is made at the first call."""
        known: OneWriter | None = getattr(dialect, _MARK, None)
        if known is None:
            known = cls(timeout)
            setattr(dialect, _MARK, known)
        return known

    def enter_loop(self) -> None:
        """Begin anew if another event loop used the engine before."""
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            self.idle.clear()
            self.waiters.clear()
            self.holder = self.task = None
            self.put_nowait(None)
        self._loop = loop

    async def turn(self, connection: object) -> None:
        """Wait until *connection*, of a session outside of units, may write.

        Raises:
            TimeoutError: It was not its turn in time; the text says who writes, and the fix.
        """
        self.enter_loop()
        task = asyncio.current_task()
        if self.idle:
            self.take()
        elif task is not None and self.task is task:
            raise TimeoutError(
                f"{self.who()} writes already, which this same task must end first, or write with"
            )
        else:
            try:
                await self._wait(self._timeout, first=GOES_FIRST.get())
            except Empty:
                raise TimeoutError(
                    f"{self.who()} has been writing for the {self._timeout:g} s that this session "
                    "waited ([database] pool_timeout), and SQLite has one writer; keep "
                    "transactions that write short"
                ) from None
        self.holder, self.task = connection, task

    def describe_by(self, method: Callable[[], str]) -> None:
        """Use *method* to describe the unit that writes, empty if it is a session outside of units.

        Only weakly: connections refer to their line, and their threads to them, until they are
        closed. An engine that nobody disposes of is to be noticed nevertheless.
        """
        self._describe_unit = WeakMethod(method)

    def who(self) -> str:
        """Describe who holds the writer."""
        session = f"a session of task {self.task.get_name()!r}" if self.task else "a session"
        describe = self._describe_unit() if self._describe_unit is not None else None
        unit = describe() if describe is not None else ""
        return unit or f"{session}, outside of units,"

    def free(self, connection: object) -> None:
        """Let the next one write after *connection*, if it may write now.

        The garbage collector may be the caller, in any thread; and *connection* may be one of an
        event loop whose line is gone.
        """
        loop = self._loop
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is None or here is loop:
            self._hand_on(connection)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._hand_on, connection)

    def _hand_on(self, connection: object) -> None:
        if self.holder is connection:
            self.holder = self.task = None
            self.put_nowait(None)
