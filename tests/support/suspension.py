"""Cancels a coroutine at its k-th suspension, for every k: all the moments that cancel can hit."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of one run.

    Args:
        k: The suspension at which it was cancelled first, from 1.
        cancelled: True when it came as far as that.
        suspensions: How often it was suspended, its way out included.
        value: What it returned.
        error: What it raised instead.
    """

    k: int
    cancelled: bool = False
    suspensions: int = 0
    value: Any = None
    error: BaseException | None = None


class _Watched:
    """Awaits a coroutine step by step, and cancels the task that awaits at the chosen steps."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], outcome: Outcome, last: float, *, late: bool
    ) -> None:
        self._coroutine = coroutine
        self._outcome = outcome
        self._last = last
        self._late = late

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            self._outcome.suspensions += 1
            if self._outcome.k <= self._outcome.suspensions <= self._last:
                self._outcome.cancelled = True
                if self._late and waits_for is not None:
                    # Runs before the task is woken: the answer is there, and nobody gets it.
                    waits_for.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            try:
                yield waits_for
                error = None
            except BaseException as caught:  # noqa: BLE001 -- goes into the coroutine
                error = caught


async def cancel_at(
    k: int, coroutine: Coroutine[Any, Any, Any], *, times: int | None = 1, late: bool = False
) -> Outcome:
    """Run *coroutine* in a task and cancel that at its k-th suspension.

    Args:
        k: Which suspension, from 1.
        coroutine: What is run. Tasks that it starts itself are left alone.
        times: At how many suspensions in a row it is cancelled; None is for ever, as by anyio.
        late: Cancel when what it waits for has arrived, just before it is told.

    Returns:
        What became of it; nothing is raised.
    """
    outcome = Outcome(k)
    last = float("inf") if times is None else k + times - 1

    async def run() -> Any:
        return await _Watched(coroutine, outcome, last, late=late)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if task.cancelled():
        outcome.error = asyncio.CancelledError()
    elif (error := task.exception()) is not None:
        outcome.error = error
    else:
        outcome.value = task.result()
    return outcome


async def cancel_everywhere(
    make: Callable[[int], Coroutine[Any, Any, Any]],
    *,
    times: int | None = 1,
    late: bool = False,
) -> AsyncIterator[Outcome]:
    """Run `make(k)` for k = 1, 2, … and cancel it at its k-th suspension, until it ends before.

    Args:
        make: Gives a new coroutine for each k.
        times: As in `cancel_at`.
        late: As in `cancel_at`.

    Yields:
        What became of each cancelled run.

    Raises:
        BaseException: What the last run, which was not cancelled, raised.
    """
    k = 1
    while True:
        outcome = await cancel_at(k, make(k), times=times, late=late)
        if not outcome.cancelled:
            if outcome.error is not None:
                raise outcome.error
            return
        yield outcome
        k += 1
