"""Takes turns: every contender once in each round, so that a busy moment hits all of them alike."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

#: One repetition of what is measured.
Case = Callable[[], Awaitable[object]]
Clock = Literal["wall", "cpu"]

_WARM_UP = 100


class Sample(NamedTuple):
    """Seconds of one repetition, mean of a turn.

    Args:
        wall: By the clock.
        cpu: Of this process, all its threads together.
    """

    wall: float
    cpu: float

    def by(self, clock: Clock) -> float:
        """Return the seconds by *clock*."""
        return self.wall if clock == "wall" else self.cpu


def _nothing() -> None:
    """Settle what needs no settling."""


async def turn(
    case: Case, units: int, tasks: int, settle: Callable[[], object] = _nothing
) -> Sample:
    """Run *case* at least *units* times, in *tasks* tasks at once.

    Args:
        case: One repetition.
        units: Repetitions, rounded up to the same number in every task.
        tasks: How many work at once.
        settle: Waits for what threads have still to do: their CPU counts, the wait does not.
    """
    each = -(-units // tasks)

    async def worker() -> None:
        for _ in range(each):
            await case()

    cpu, wall = time.process_time(), time.perf_counter()
    if tasks == 1:
        await worker()
    else:
        await asyncio.gather(*(worker() for _ in range(tasks)))
    wall = time.perf_counter() - wall
    settle()
    cpu = time.process_time() - cpu
    return Sample(wall / each / tasks, cpu / each / tasks)


async def interleave(
    cases: Mapping[str, Case],
    *,
    rounds: int,
    units: int,
    tasks: int,
    settle: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[Sample]]:
    """Let *cases* take turns; each round begins with another of them.

    Args:
        cases: What is compared, by name.
        rounds: Turns of each.
        units: Repetitions in one turn.
        tasks: How many work at once.
        settle: What to wait for after a case's turn, by its name.

    Returns:
        The samples of each, in the order of the rounds.
    """
    settle = settle or {}
    warm_up = min(_WARM_UP, 2 * units)
    for case in cases.values():
        await turn(case, warm_up, warm_up // 2)  # every connection of a pool, more than once
    names = list(cases)
    gc.collect()
    gc.freeze()  # what lives already is not looked at again in somebody's turn
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            sample = await turn(cases[name], units, tasks, settle.get(name, _nothing))
            samples[name].append(sample)
    gc.unfreeze()
    return samples


def median(samples: list[Sample], clock: Clock) -> float:
    """Return the median of *samples* in microseconds."""
    return statistics.median(sample.by(clock) for sample in samples) * 1e6


def ratio(samples: list[Sample], base: list[Sample], clock: Clock) -> float:
    """Return the median of the ratios to *base*, each within its round."""
    pairs = zip(samples, base, strict=True)
    return statistics.median(a.by(clock) / b.by(clock) for a, b in pairs)
