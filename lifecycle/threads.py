"""Runs work that may block in a daemon thread of its own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from lifecycle.error_text import tell

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run *work* in a thread.

    The loop's own threads are waited for at its end, and resolve the names of hosts: nothing that
    may hang belongs there, nor waits behind what hangs there.

    Args:
        work: What may block.
        name: Name of the thread.

    Returns:
        Its result, or what it raised; a `RuntimeError` in the place of what would end the event
        loop (`SystemExit`), or what no future takes (`StopIteration`).

    Raises:
        RuntimeError: No thread can be started.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(done: Callable[[], None]) -> None:
        if not answer.done():
            done()

    def run() -> None:
        try:
            done = partial(answer.set_result, work())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the answer is awaited
            done = partial(answer.set_exception, _awaitable(error, name))
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, done)

    Thread(target=run, name=name, daemon=True).start()
    return answer


async def to_its_end(work: Callable[[], T], name: str) -> T:
    """Run *work* in a thread; when the caller is cancelled, that is raised once it has ended.

    Args:
        work: What may block, and must not go on after the caller.
        name: Name of the thread.

    Returns:
        Its result.

    Raises:
        CancelledError: The caller was cancelled meanwhile.
    """
    answer = in_thread(work, name)
    cancelled: asyncio.CancelledError | None = None
    while not answer.done():
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        answer.exception()  # it is seen, and the cancellation matters more
        raise cancelled
    return answer.result()


def _awaitable(error: BaseException, name: str) -> Exception:
    """Return *error* as what a future can hold, and a task can be told."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrong = RuntimeError(f"{name}: ended by {tell(error)}")
    wrong.__cause__ = error
    return wrong
