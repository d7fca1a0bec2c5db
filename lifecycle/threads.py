"""Runs work that may block in a daemon thread of its own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run *work* in a thread.

    The loop's own threads are waited for at its end, and resolve the names of hosts: nothing that
    may hang belongs there, nor waits behind what hangs there.

    Args:
        work: What may block.
        name: Name of the thread.

    Returns:
        Its result, or what it raised.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(done: Callable[[], None]) -> None:
        if not answer.done():
            done()

    def run() -> None:
        try:
            done = partial(answer.set_result, work())
        except Exception as error:  # noqa: BLE001 -- it is raised where the answer is awaited
            done = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, done)

    Thread(target=run, name=name, daemon=True).start()
    return answer
