"""Runs one piece of a plugin's work in a task of its own, under a deadline."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from lifecycle.error_text import textless
from lifecycle.errors import HookTimeoutError, LifecycleError

T = TypeVar("T")

_log = logging.getLogger("lifecycle")

#: Seconds that cancelled work is given to end, before it is left behind.
PATIENCE = 0.25

# The tasks left behind: held, so that the loop does not lose them while they run.
_abandoned: set[asyncio.Task[Any]] = set()

# The hook that the running code belongs to, in a list because the task is made after its context.
_hook: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("lifecycle_hook", default=None)
_in_plugin_task: ContextVar[bool] = ContextVar("lifecycle_plugin_task", default=False)


class Interrupt:
    """Says that the caller of a command gave up: the running hook is cancelled, no other begins."""

    def __init__(self) -> None:
        self.requested = asyncio.get_running_loop().create_future()

    def request(self) -> None:
        """Interrupt the command."""
        if not self.requested.done():
            self.requested.set_result(None)

    def check(self) -> None:
        """Raise when the command was interrupted.

        Raises:
            CancelledError: It was.
        """
        if self.requested.done():
            raise asyncio.CancelledError


def abandoned() -> list[str]:
    """Return the names of the work that ignored its cancellation and still runs; in any thread."""
    return sorted(map(name_of, list(_abandoned)))  # a copy: the loop goes on meanwhile


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name that somebody gave to *task*, else that of its work."""
    name = task.get_name()
    return name_of_work(task) if name.startswith("Task-") else name


def name_of_work(task: asyncio.Task[Any]) -> str:
    """Return the name of the coroutine that *task* runs."""
    return getattr(task.get_coro(), "__qualname__", task.get_name())


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Wait no more for *task*, which ignores its cancellation; `abandoned` names it."""
    _abandoned.add(task)
    task.add_done_callback(_forget)


def in_hook() -> bool:
    """Return whether the running code belongs to a hook that has not ended."""
    tasks = _hook.get()
    # An eager task runs before anybody can hold it.
    return tasks is not None and (not tasks or not tasks[0].done())


def in_plugin_task() -> bool:
    """Return whether the running code belongs to a task that a plugin spawned."""
    return _in_plugin_task.get()


def plugin_task(work: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
    """Start *work* as a background task of a plugin, which outlives the hook that starts it."""
    context = copy_context()
    context.run(_hook.set, None)
    context.run(_in_plugin_task.set, True)  # noqa: FBT003 -- ContextVar.set takes positions only
    return asyncio.create_task(work, name=name, context=context)


async def call(
    work: Coroutine[Any, Any, T],
    deadline: float,
    interrupt: Interrupt | None = None,
    *,
    name: str | None = None,
) -> T:
    """Run *work* in a task of its own and return its result.

    Args:
        work: The coroutine of the hook.
        deadline: Seconds it may take; then it is cancelled.
        interrupt: Ends it earlier when it is requested.
        name: Of work that is no hook: no command of the application waits for it, so that it may
            give one.

    Raises:
        HookTimeoutError: It did not end in time, or ignored its cancellation.
        CancelledError: The caller was cancelled, and then the work; or the work was interrupted.
    """
    holder: list[asyncio.Task[Any]] = []
    context = copy_context()
    if name is None:
        context.run(_hook.set, holder)
    task = asyncio.create_task(work, name=name, context=context)
    holder.append(task)
    watched: set[asyncio.Future[Any]] = {task}
    if interrupt is not None:
        watched.add(interrupt.requested)
    try:
        await asyncio.wait(watched, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _cancel(task, PATIENCE)
        raise
    if task.done():
        return task.result()
    late = interrupt is None or not interrupt.requested.done()
    if not await _cancel(task, PATIENCE):
        raise HookTimeoutError(deadline if late else PATIENCE, abandoned=True)
    if late:
        cause = None if task.cancelled() else task.exception()
        raise HookTimeoutError(deadline, abandoned=False) from cause
    return task.result()


async def outlast(task: asyncio.Task[Any], on_cancel: Callable[[], None]) -> None:
    """Wait for *task* to its end, also when the caller is cancelled; its result is not looked at.

    Args:
        task: What has to end before the caller does.
        on_cancel: Called at each cancellation of the caller.

    Raises:
        CancelledError: The caller was cancelled, and the task has ended; its error is the cause.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    if cancelled is not None:
        raise cancelled from None if task.cancelled() else task.exception()


@contextmanager
def cancellations_told(what: str) -> Iterator[None]:
    """Let no `CancelledError` of the block look like a cancellation of the running task.

    Work that cancels a task of its own and waits for it ends in one, and who runs that work would
    take itself for cancelled.

    Args:
        what: Whose work it is, for people.

    Raises:
        CancelledError: The running task was cancelled during the block.
        LifecycleError: The block ended in a `CancelledError`, and nobody had cancelled the running
            task meanwhile.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise LifecycleError(
            f"{what} ended in CancelledError, and nobody had cancelled it"
        ) from error


async def end(task: asyncio.Task[Any], deadline: float) -> None:
    """Cancel a background task and wait for its end.

    Args:
        task: The task.
        deadline: Seconds it is given to end.

    Raises:
        HookTimeoutError: It ignored its cancellation.
    """
    if not await _cancel(task, deadline):
        raise HookTimeoutError(deadline, abandoned=True)
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _cancel(task: asyncio.Task[Any], patience: float) -> bool:
    """Cancel *task* and return whether it ended within *patience* seconds."""
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=patience)
    finally:
        if not task.done():
            leave_behind(task)
    return task.done()


def log_failure(task: asyncio.Task[Any]) -> None:
    """Log that a command failed whose caller, a plugin's task, does not wait for it any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a command given by a plugin's task failed", exc_info=textless(error))


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # nobody is left to be told: the hook was reported as abandoned
