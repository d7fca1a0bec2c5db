"""aiosqlite's connection, which can be told to stop: what releases before 0.22 lack is added here.

From 0.22 on a connection has a thread, before that it is one. A thread that is not told to stop
lives as long as the process, with its file open.
"""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import aiosqlite


class _Nobody:
    """Stands in for the future of a call whose result nobody awaits."""

    def get_loop(self) -> "_Nobody":
        return self

    def call_soon_threadsafe(self, *_result: object) -> None:
        """Drop the result."""


#: False for a release that is older than `stop`.
_CAN_STOP: Final = hasattr(aiosqlite.Connection, "stop")
_NOBODY: Final[Any] = None if _CAN_STOP else _Nobody()


class Stoppable(aiosqlite.Connection):
    """aiosqlite's connection as it is from 0.22 on."""

    def call_unawaited(self, call: Callable[[], object]) -> None:
        """Let the driver's thread make *call*; nobody awaits it.

        Args:
            call: Called after all calls before it.
        """
        self._tx.put_nowait((_NOBODY, call))

    if not TYPE_CHECKING and not _CAN_STOP:

        @property
        def _thread(self) -> Thread:
            return self

        async def _connect(self) -> "Stoppable":
            try:
                return await super()._connect()
            except BaseException:  # 0.20 stops by itself after an `Exception` only
                self.stop()
                raise

        def _stop_running(self) -> None:
            self.stop()  # it would stop without closing what a cancelled attempt has opened

        def _close_here(self) -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        def stop(self) -> "asyncio.Future[Any] | None":
            """Close without waiting; return the future of the close, if there is an event loop."""
            try:
                closed = asyncio.get_running_loop().create_future()
            except RuntimeError:  # the garbage collector is the caller
                closed = None
            self._tx.put_nowait((closed or _NOBODY, self._close_here))
            super()._stop_running()
            return closed
