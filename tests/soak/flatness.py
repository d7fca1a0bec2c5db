"""What a process holds at one moment, and whether that is the same in the end as before."""

import asyncio
import ctypes
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from greenlet import greenlet
from sqlalchemy.pool import ConnectionPoolEntry

from db_manager.database.database import Database

#: How much more the last third may hold than the middle one, as a share.
ALLOWED: Final = 0.01
_SELF: Final = Path("/proc/self")


class Sample(NamedTuple):
    """What the process holds while nothing runs."""

    #: Resident memory in bytes, after a collection and after free memory was given back.
    memory: int
    descriptors: int
    threads: int
    tasks: int
    greenlets: int
    #: Everything that the garbage collector knows.
    objects: int
    #: Entries of all pools that are alive, whether a pool knows them or not.
    entries: int
    checked_out: int
    open_units: int


class Growth(NamedTuple):
    """A measure in the middle third of a soak and in the last one: medians of the samples there."""

    middle: float
    last: float

    @property
    def share(self) -> float:
        """How much more the last is, as a share of the middle."""
        return (self.last - self.middle) / max(self.middle, 1)


def take(databases: Iterable[Database]) -> Sample:
    """Return what this process holds now.

    Args:
        databases: Whose units and pools are counted.
    """
    _free_memory()
    objects = [type(thing) for thing in gc.get_objects()]
    pools: list[Any] = [engine.sync_engine.pool for db in databases for engine in engines(db)]
    return Sample(
        memory=int((_SELF / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir(_SELF / "fd")),  # noqa: PTH208 -- half the objects
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks()),
        greenlets=sum(issubclass(kind, greenlet) for kind in objects),
        objects=len(objects),
        entries=sum(issubclass(kind, ConnectionPoolEntry) for kind in objects),
        checked_out=sum(pool.checkedout() for pool in pools),
        open_units=sum(len(db.open) + len(db.checkout.holders) for db in databases),
    )


def engines(database: Database) -> list[Any]:
    """Return the engine of the units that write, and the one of those that read."""
    return list(dict.fromkeys((database.engine, database.checkout.reading_engine())))


def kinds() -> Counter[str]:
    """Count what the garbage collector knows by its type."""
    return Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


def _free_memory() -> None:
    for _ in range(2):  # what the first finalises, the second collects
        gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def growths(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Compare the last third of *samples* with the middle third; the first one is the warm-up.

    Args:
        samples: In the order of time; at least three.

    Returns:
        By the name of the measure.
    """
    third = len(samples) // 3
    middle, last = samples[-2 * third : -third], samples[-third:]
    return {
        name: Growth(median(s[at] for s in middle), median(s[at] for s in last))
        for at, name in enumerate(Sample._fields)
    }


def tenths(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Return *samples* in ten parts of the same length, or fewer; what is left over is dropped."""
    size = max(1, len(samples) // 10)
    return [samples[at : at + size] for at in range(0, size * (len(samples) // size), size)][:10]


def judge(samples: Sequence[Sample], *, heap: float = ALLOWED) -> list[str]:
    """Return which measures are not flat, one sentence each.

    Args:
        samples: In the order of time; at least three.
        heap: How much memory and objects may grow, as a share: a short run is all warm-up, and
            timers of connections that are gone stay until their time. The rest by `ALLOWED`.
    """
    said = []
    for name, growth in growths(samples).items():
        if growth.share > (heap if name in {"memory", "objects"} else ALLOWED):
            said.append(f"{name} grew from {growth.middle:g} to {growth.last:g}")
    held = {name: getattr(samples[-1], name) for name in ("checked_out", "open_units")}
    said += [f"{count} {name} at the end" for name, count in held.items() if count]
    return said
