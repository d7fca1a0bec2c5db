"""Start and stop of many plugins, and what each of them weighs."""

import gc
import itertools
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.report import Plot, Scale, Section, Table
from lifecycle import Application, MemoryJournal, Plugin, PluginContext, SqliteJournal
from lifecycle.journal import Journal

NAME = "plugins"

COUNTS: Final = (10, 100, 1_000)
#: The largest number that runs with --quick.
FEW: Final = 100


class Bare(Plugin):
    """A plugin without hooks."""

    def __init__(self, name: str) -> None:
        self.name = name


class Busy(Bare):
    """A plugin whose every hook is there, and takes and gives something back without I/O."""

    async def load(self, context: PluginContext) -> None:
        """Offer a service."""
        context.provide("value", self)

    async def start(self, context: PluginContext) -> None:
        """Listen to something."""
        context.subscribe("bench.*", print)

    async def stop(self, context: PluginContext) -> None:
        """Do nothing."""

    async def unload(self, context: PluginContext) -> None:
        """Do nothing."""


class Setting(NamedTuple):
    """Which plugins, and where their facts go.

    Args:
        kind: Their class.
        chained: Each requires the one before it.
        kept: In a file, not in memory.
    """

    kind: type[Bare]
    chained: bool = False
    kept: bool = False


MAIN: Final = "four hooks, journal in memory"
SETTINGS: Final = {
    "no hooks, journal in memory": Setting(Bare),
    MAIN: Setting(Busy),
    "the same, each requires the one before": Setting(Busy, chained=True),
    "four hooks, SqliteJournal": Setting(Busy, kept=True),
}


async def _life(setting: Setting, count: int, journal: Journal) -> tuple[float, float]:
    """Return the seconds of one start and of one stop, with load and unload."""
    plugins = [setting.kind(f"plugin{i}") for i in range(count)]
    for before, plugin in itertools.pairwise(plugins) if setting.chained else ():
        plugin.requires = (before.name,)
    app = Application(plugins, journal=journal)
    begun = time.perf_counter()
    await app.start()
    started = time.perf_counter()
    await app.unload()
    return started - begun, time.perf_counter() - started


async def _weigh(count: int) -> float:
    """Return the bytes of memory of one started plugin of *count*, its facts included."""
    gc.collect()
    tracemalloc.start()
    app = Application([Busy(f"plugin{i}") for i in range(count)], journal=MemoryJournal())
    await app.start()
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await app.unload()
    return taken / count


def _journals(folder: Path) -> Callable[[bool], Journal]:
    numbers = itertools.count()

    def make(kept: bool) -> Journal:  # noqa: FBT001 -- the one question there is
        return SqliteJournal(folder / f"{next(numbers)}.sqlite3") if kept else MemoryJournal()

    return make


async def measure(scale: Scale) -> Section:
    """Measure plugins.

    Args:
        scale: How much.
    """
    counts = [count for count in COUNTS if count <= FEW or not scale.quick]
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="db_manager_bench_") as folder:
        journal = _journals(Path(folder))
        for _ in range(scale.rounds + 1):
            for count in counts:
                for name, setting in SETTINGS.items():
                    gc.collect()
                    life = await _life(setting, count, journal(setting.kept))
                    samples.setdefault((name, count), []).append(life)
    found = {
        at: tuple(statistics.median(part) for part in zip(*lives[1:], strict=True))
        for at, lives in samples.items()  # the first round is warmed up in
    }
    table = Table(
        "Start and stop of n plugins, milliseconds",
        ("plugins", "", "start", "stop", "both, for one plugin"),
        [
            (count, name, up * 1e3, down * 1e3, (up + down) / count * 1e3)
            for name in SETTINGS
            for count in counts
            for up, down in [found[name, count]]
        ],
        "Start is load and start, stop is stop and unload: eight facts for a plugin, each appended "
        "to the journal, applied and published; with the service ten.",
    )
    weights = Table(
        "Memory of one started plugin",
        ("plugins", "bytes"),
        [(count, round(await _weigh(count))) for count in counts],
        "With its context, service, subscription, and five facts in the journal in memory.",
    )
    plot = Plot(
        "plugins-growth",
        "Start and stop of n plugins",
        "plugins",
        "seconds",
        {name: [(count, sum(found[name, count])) for count in counts] for name in SETTINGS},
        log=True,
    )
    text = (
        "Plugins without I/O of their own, in one application, which moves them one after the "
        "other. Every number is the median of interleaved rounds."
    )
    facts = {}
    if not scale.quick:
        one = {count: sum(found[MAIN, count]) for count in counts}
        facts = {
            "plugins.thousand": one[1_000],
            "plugins.growth": (one[1_000] / 1_000) / (one[100] / 100),
        }
    return Section("Plugins", text, [table, weights], [plot], facts)
