"""The figures of a soak: kept as JSON in docs/soak.json, and told in docs/faults.md."""

import datetime as dt
import json
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from soak.flatness import ALLOWED, growths, judge, tenths
from soak.soaking import POOL, READERS, Soak

#: Where the figures are kept.
FIGURES: Final = Path(__file__).parents[2] / "docs" / "soak.json"
_PACKAGES: Final = (*("sqlalchemy", "greenlet", "asyncpg", "psycopg", "aiosqlite", "asyncmy"),)


def figures(soak: Soak, *, minutes: float, tasks: int) -> dict[str, Any]:
    """Return what a soak came to, for JSON.

    Args:
        soak: The soak, at its end.
        minutes: How long it ran.
        tasks: How many units of a burst ran at a time.
    """
    return {
        "date": str(dt.datetime.now(tz=dt.UTC).date()),
        "minutes": round(minutes, 1),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "tasks": tasks,
        "pool": POOL,
        "readers": READERS,
        "samples": len(soak.samples),
        "units": {
            name: {str(state): count for state, count in sorted(fuzz.states.items())}
            for name, fuzz in soak.fuzzes.items()
        },
        "reads": sum(soak.reads.values()),
        "faults": dict(soak.faults),
        "measures": {
            name: {"middle": growth.middle, "last": growth.last, "grew": round(growth.share, 4)}
            for name, growth in growths(soak.samples).items()
        },
        "memory by tenths": [
            int(median(sample.memory for sample in part)) for part in tenths(soak.samples)
        ],
        "lies": len(soak.lies),
        "wrong": judge(soak.samples),
    }


def write(found: dict[str, Any], path: Path = FIGURES) -> None:
    """Keep figures.

    Args:
        found: As `figures` returns them.
        path: The file.
    """
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def section(path: Path = FIGURES) -> list[str]:
    """Return the lines of Markdown that tell the figures of *path*; none without the file.

    Args:
        path: The file that `write` wrote.
    """
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    faults = ", ".join(f"{count} {name}" for name, count in found["faults"].items())
    ended = (
        f"* {name}: {', '.join(f'{count} {state}' for state, count in states.items())}"
        for name, states in found["units"].items()
    )
    verdict = "; ".join(found["wrong"]) or "everything was flat"
    return [
        "## The soak, as it ran",
        "",
        f"Written by `make soak` on {found['date']}, {found['minutes']:g} minutes,",
        f"Python {found['python']}, {versions}.",
        (
            f"Bursts of {found['tasks']} tasks with random units on pools of {found['pool']}"
            f" connections, one database after the other, and {found['readers']} units that read"
            f" beside each; every fifth is cancelled at a random moment; {faults}."
        ),
        "",
        f"{found['lies']} units said something else of themselves than their rows do. They ended:",
        "",
        *ended,
        "",
        (
            f"Between the bursts, with every pool full and nothing running, {found['samples']}"
            " samples of the process were taken, after a garbage collection and, on glibc,"
            " `malloc_trim`."
            " The first third is the warm-up; the median of the last third may be at most"
            f" {ALLOWED:.0%} above that of the middle third: {verdict}."
        ),
        "",
        "| measure | middle third | last third | grew |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name.replace('_', ' ')} | {_told(name, grown['middle'])} "
            f"| {_told(name, grown['last'])} | {grown['grew']:.2%} |"
            for name, grown in found["measures"].items()
        ),
        "",
    ]


def _told(name: str, value: float) -> str:
    return f"{value / 2**20:.1f} MiB" if name == "memory" else f"{value:,.0f}"
