"""Takes turns with calls that last nanoseconds, and finds out what objects weigh."""

import gc
import statistics
import timeit
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

#: Seconds that one turn of a call should last at least: long against the clock, short against us.
TURN = 0.003


class Call(NamedTuple):
    """A statement, compiled into the loop that times it: no call is added to it.

    Args:
        statement: Python.
        names: What the names in it mean.
    """

    statement: str
    names: Mapping[str, Any]


def take_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Let *calls* take turns.

    Args:
        calls: What is compared, by name.
        rounds: Turns of each.

    Returns:
        Nanoseconds of one call in each round.
    """
    timers = {
        name: timeit.Timer(call.statement, globals=dict(call.names)) for name, call in calls.items()
    }
    counts = {name: _count(timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, timer in timers.items():
            samples[name].append(timer.timeit(counts[name]) / counts[name] * 1e9)
    return samples


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(values) for name, values in samples.items()}


def weigh(make: Callable[[], object], count: int) -> float:
    """Return the bytes that one more of what *make* returns takes, the mean of *count*."""
    make()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = [make() for _ in range(count)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(kept)


def _count(timer: timeit.Timer) -> int:
    count = 1
    while (took := timer.timeit(count)) < TURN / 10:
        count *= 10
    return max(1, round(TURN / took * count))
