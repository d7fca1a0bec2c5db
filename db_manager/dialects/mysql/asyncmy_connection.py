"""asyncmy's connection, with a deadline for answers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from asyncmy.errors import OperationalError

from db_manager.dialects.mysql.asyncmy_ends import WatchedConnection
from db_manager.running.choose import choose_timers


class PatientConnection(WatchedConnection):
    """Closes itself when an answer does not arrive in time.

    asyncmy's own `read_timeout` costs a task for each answer on Python 3.11.

    Args:
        answer_timeout: Longest wait for an answer, or for the next part of it, in seconds.
        **kwargs: For asyncmy.
    """

    def __init__(self, *, answer_timeout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._answer_timeout = answer_timeout
        self._timers = choose_timers()

    async def _fill_buffer(self, need: int) -> None:
        """Wait for *need* bytes; every read of asyncmy goes through here (guarded by a test).

        Raises:
            OperationalError: The connection was lost, or was closed because no answer came in time.
        """
        timer = self._timers.call_later(self._answer_timeout, self._give_up)
        try:
            await super()._fill_buffer(need)
        except OperationalError as error:
            if isinstance(self._proto.exc, TimeoutError):
                raise error from self._proto.exc
            raise
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        if self._transport is not None:
            # asyncmy then ends the wait with OperationalError 2013, connection lost.
            self._proto.exc = TimeoutError(f"no answer within {self._answer_timeout:g} s")
            self._transport.abort()


def connect(
    *, answer_timeout: float, connect_timeout: float, **kwargs: Any
) -> Coroutine[Any, Any, PatientConnection]:
    """Connect as `asyncmy.connect` does, with a deadline for answers and for the whole login.

    It is not `async`: a suspended frame would expose the password among the variables of a
    traceback.

    Args:
        answer_timeout: Longest wait for an answer of the server, in seconds.
        connect_timeout: Longest time up to the end of the login, in seconds.
        **kwargs: For asyncmy.

    Returns:
        An awaitable of the connection.
    """
    return _opened(PatientConnection(answer_timeout=answer_timeout, **kwargs), connect_timeout)


async def _opened(connection: PatientConnection, connect_timeout: float) -> PatientConnection:
    async with asyncio.timeout(connect_timeout):
        await connection.connect()
    return connection
