"""Runs SQLAlchemy's synchronous core in a pool of reused greenlets.

SQLAlchemy's `greenlet_spawn` makes a greenlet for each call, which maps and unmaps memory: about
9 µs. A switch into an existing greenlet costs less than 1 µs (docs/performance.md).
"""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

#: Most idle greenlets that are kept; each holds about 20 KB.
_KEPT: Final = 100


#: Switched out by a `Worker` instead of an awaitable: its function has returned.
_RESTING: Final = object()


def _work(results: list[Any]) -> None:
    """Call one function after another; the body of a `Worker`.

    It holds no reference to its worker: the garbage collector does not see the frame of a
    suspended greenlet, so a reference from there would leak the worker. Nor does it hold on to a
    result or an error.

    Args:
        results: Receives the result of each function.
    """
    while True:
        function, args, kwargs = getcurrent().parent.switch(_RESTING)  # type: ignore[union-attr]  # a worker has a parent
        results.append(function(*args, **kwargs))
        del function, args, kwargs  # an idle worker keeps nothing alive


class Worker(greenlet):
    """A greenlet that calls one function after another; one that raises ends the greenlet."""

    __slots__ = ("_results", "busy")

    #: SQLAlchemy's `await_` looks for this attribute before it waits in a greenlet.
    __sqlalchemy_greenlet_provider__ = True

    def __init__(self) -> None:
        super().__init__(_work)
        #: True while a function runs or waits.
        self.busy = False
        self._results: list[Any] = []
        self.switch(self._results)  # runs up to the first idle point
        self.gr_context = None

    def begin(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call *function* and run it up to its first wait.

        Args:
            function: May wait with `sqlalchemy.util.await_only`.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its result if `busy` is now False, otherwise the awaitable to pass to `finish`.
        """
        self.parent = home = getcurrent()
        self.gr_context = home.gr_context
        self.busy = True
        try:  # `_switch` inlined: this is the path of every statement
            awaited = self.switch(function, args, kwargs or {})
        except BaseException:
            self.busy = False
            raise
        return self._rest() if awaited is _RESTING else awaited

    async def finish(self, awaited: Any) -> Any:
        """Continue from *awaited* to the end of the function.

        When this coroutine is closed, CancelledError is raised in the function at each of its
        waits until it ends.

        Args:
            awaited: What `begin` returned.

        Returns:
            The function's result.

        Raises:
            GeneratorExit: The coroutine was closed; the function was ended first.
        """
        while self.busy:
            try:
                value = await awaited
            except GeneratorExit:
                self._abandon()
                raise
            except BaseException:  # noqa: BLE001 -- the function handles it
                awaited = self._throw(*sys.exc_info())
            else:
                awaited = self._switch(value)
        return awaited

    async def advance(self, awaited: Any, wait: Callable[[Any], Awaitable[Any]]) -> Any:
        """Continue from *awaited* to the next wait of the function, or to its end.

        Args:
            awaited: What `begin` returned.
            wait: Awaits it.

        Returns:
            The next awaitable, for `finish`, if `busy` is still True; otherwise the result.

        Raises:
            GeneratorExit: The coroutine was closed; the function was ended first.
        """
        try:
            value = await wait(awaited)
        except GeneratorExit:
            self._abandon()
            raise
        except BaseException:  # noqa: BLE001 -- the function handles it
            return self._throw(*sys.exc_info())
        return self._switch(value)

    async def cancel(self, awaited: Any) -> None:
        """Raise CancelledError in the function where it waits, and continue to its end.

        Args:
            awaited: What `begin` returned; it was never awaited.
        """
        _close(awaited)
        await self.finish(_cancelled())

    def _switch(self, value: Any) -> Any:
        """Continue the function; return its next awaitable, or its result when it has ended."""
        self.parent = getcurrent()  # not the one it began in: an eager task begins anywhere
        try:
            awaited = self.switch(value)
        except BaseException:
            self.busy = False
            raise
        return self._rest() if awaited is _RESTING else awaited

    def _throw(self, *error: Any) -> Any:
        """Raise *error* in the function where it waits; return as `_switch` does."""
        self.parent = getcurrent()  # as above
        try:
            awaited = self.throw(*error)
        except BaseException:
            self.busy = False
            raise
        return self._rest() if awaited is _RESTING else awaited

    def _rest(self) -> Any:
        self.busy = False
        self.gr_context = None  # it would keep the context of the last task alive
        return self._results.pop()

    def _abandon(self) -> None:
        while self.busy:
            try:
                _close(self._throw(asyncio.CancelledError))
            except asyncio.CancelledError:
                return


async def _cancelled() -> None:
    raise asyncio.CancelledError


def _close(awaited: Any) -> None:
    """Close *awaited*, which will not be awaited."""
    if hasattr(awaited, "close"):  # a coroutine
        awaited.close()


class Greenlets:
    """The pool of greenlets of one event loop."""

    def __init__(self) -> None:
        self._idle: deque[Worker] = deque(maxlen=_KEPT)

    def take(self) -> Worker:
        """Return an idle greenlet, or a new one."""
        return self._idle.pop() if self._idle else Worker()

    def give_back(self, worker: Worker) -> None:
        """Keep *worker* for reuse, unless its last function raised."""
        if not worker.dead:
            self._idle.append(worker)

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *function*, which may wait with `sqlalchemy.util.await_only`.

        Args:
            function: A synchronous function of SQLAlchemy, or one that calls such functions.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its result.
        """
        worker = self._idle.pop() if self._idle else Worker()
        result: T = worker.begin(function, args, kwargs)
        if worker.busy:
            result = await worker.finish(result)
        if not worker.dead:  # `give_back` inlined: this is the path of every statement
            self._idle.append(worker)
        return result
