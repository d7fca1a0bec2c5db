"""Runs SQLAlchemy's synchronous core in greenlets that are kept and used again.

`greenlet_spawn` of SQLAlchemy makes a greenlet for each call, which maps memory and unmaps it:
some 9 µs, where a switch into one that is there costs less than 1 µs (docs/performance.md).
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

#: Greenlets that are kept while nobody needs them; each holds some 20 KB.
_KEPT: Final = 100


#: What a `Worker` hands over instead of something to wait for: its function is done.
_RESTING: Final = object()


def _work(results: list[Any]) -> None:
    """Call one function after another; the body of a `Worker`.

    It knows nothing of its worker: a suspended greenlet is beyond the garbage collector, so that
    one whose frame refers to it is there for ever. Nor does it hold a result, or what raised.

    Args:
        results: Where the result of the last function is put.
    """
    while True:
        function, args, kwargs = getcurrent().parent.switch(_RESTING)  # type: ignore[union-attr]  # a worker has one
        results.append(function(*args, **kwargs))
        del function, args, kwargs  # what rests keeps nothing alive


class Worker(greenlet):
    """A greenlet that calls one function after another; the first that raises ends it."""

    #: SQLAlchemy's `await_` looks for this attribute before it waits in a greenlet.
    __sqlalchemy_greenlet_provider__ = True

    def __init__(self) -> None:
        super().__init__(_work)
        #: True from the begin of a function to its end.
        self.busy = False
        self._results: list[Any] = []
        self.switch(self._results)  # up to its first rest
        self.gr_context = None

    def begin(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *function* up to its first wait.

        Args:
            function: What may wait by `sqlalchemy.util.await_only`.
            args: Its arguments.
            kwargs: The same by name.

        Returns:
            Its result when `busy` is False now, else what it waits for, for `finish`.
        """
        self.parent = home = getcurrent()
        self.gr_context = home.gr_context
        self.busy = True
        try:  # `_switch` in line: each statement comes this way
            awaited = self.switch(function, args, kwargs)
        except BaseException:
            self.busy = False
            raise
        return self._rest() if awaited is _RESTING else awaited

    async def finish(self, awaited: Any) -> Any:
        """Go on from *awaited* to the end of the function.

        When nobody waits any more, because this coroutine is closed, the function gets
        CancelledError wherever it waits, and cannot wait again.

        Args:
            awaited: What `begin` returned.

        Returns:
            The function's result.
        """
        while self.busy:
            try:
                value = await awaited
            except GeneratorExit:
                self._abandon()
                raise
            except BaseException:  # noqa: BLE001 -- the function is where it is handled
                awaited = self._throw(*sys.exc_info())
            else:
                awaited = self._switch(value)
        return awaited

    async def advance(self, awaited: Any, wait: Callable[[Any], Awaitable[Any]]) -> Any:
        """Go on from *awaited* to the next wait of the function, or to its end.

        Args:
            awaited: What `begin` returned.
            wait: Waits for what the function waits for.

        Returns:
            What it waits for next, for `finish`, when `busy` is still True; else its result.
        """
        try:
            value = await wait(awaited)
        except GeneratorExit:
            self._abandon()
            raise
        except BaseException:  # noqa: BLE001 -- the function is where it is handled
            return self._throw(*sys.exc_info())
        return self._switch(value)

    async def cancel(self, awaited: Any) -> None:
        """Raise CancelledError in the function where it waits, and go on to its end.

        Args:
            awaited: What `begin` returned; nobody has waited for it.
        """
        _close(awaited)
        await self.finish(_cancelled())

    def _switch(self, *values: Any) -> Any:
        """Go on in the function; return what it waits for, or its result when it is done."""
        self.parent = getcurrent()  # another than at its begin, which an eager task makes anywhere
        try:
            awaited = self.switch(*values)
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
        self.gr_context = None  # it would keep the variables of the last task alive
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
    """Let *awaited* go, for which nobody will wait."""
    if hasattr(awaited, "close"):  # a coroutine
        awaited.close()


class Greenlets:
    """The greenlets of one event loop."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []

    def take(self) -> Worker:
        """Return a greenlet that nobody uses."""
        return self._idle.pop() if self._idle else Worker()

    def give_back(self, worker: Worker) -> None:
        """Keep *worker* for the next, unless its last function raised."""
        if not worker.dead and len(self._idle) < _KEPT:
            self._idle.append(worker)

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *function*, which may wait by `sqlalchemy.util.await_only`.

        Args:
            function: A synchronous function of SQLAlchemy's, or one that calls such.
            args: Its arguments.
            kwargs: The same by name.

        Returns:
            Its result.
        """
        worker = self._idle.pop() if self._idle else Worker()
        result: T = worker.begin(function, *args, **kwargs)
        if worker.busy:
            result = await worker.finish(result)
        self.give_back(worker)
        return result
