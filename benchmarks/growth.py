"""How the cost of a unit grows with the number of tasks that want one."""

from contextlib import AsyncExitStack
from typing import Final

from sqlalchemy.engine import make_url

from benchmarks import contenders, ours
from benchmarks.contenders import BASE, POOL
from benchmarks.report import Cell, Plot, Scale, Section, Table
from benchmarks.rounds import Case, interleave, median
from benchmarks.statements import INSERT, SELECT
from benchmarks.units import SAFE_WAL, on_postgres, on_sqlite

NAME = "growth"

TASKS: Final = (1, 10, 50, 200, 1000)
_PG: Final = (
    BASE, ours.SESSION_LANE, ours.CORE_LANE, ours.DRIVER_LANE, "read_only session",
    contenders.ASYNCPG,
)  # fmt: skip
_SQLITE: Final = (BASE, SAFE_WAL, ours.SESSION_LANE, ours.CORE_LANE, "aiosqlite, one connection")

_TEXT = (
    f"Units per second, higher is better, with 1 to 1,000 tasks that share a pool of {POOL} "
    "connections: on PostgreSQL (asyncpg) with one SELECT by key, on a SQLite file with one "
    "INSERT. Each point is the median of the rounds."
)


async def measure(scale: Scale) -> Section:
    """Measure both databases at every number of tasks."""
    tables, plots = [], []
    async with AsyncExitStack() as stack:
        field = await on_postgres(stack, make_url(scale.urls[0]), "asyncpg")
        cases = {name: field[name][SELECT] for name in _PG}
        table, plot = await _grow("postgres", "One SELECT on PostgreSQL", cases, scale)
        tables.append(table)
        plots.append(plot)
    async with AsyncExitStack() as stack:
        field = await on_sqlite(stack)
        cases = {name: field[name][INSERT] for name in _SQLITE}
        table, plot = await _grow("sqlite", "One INSERT on SQLite", cases, scale)
        tables.append(table)
        plots.append(plot)
    return Section("Growth with the number of tasks", f"{_TEXT} {scale.note}", tables, plots)


async def _grow(name: str, title: str, cases: dict[str, Case], scale: Scale) -> tuple[Table, Plot]:
    series: dict[str, list[tuple[float, float]]] = {who: [] for who in cases}
    for tasks in TASKS[:3] if scale.quick else TASKS:
        samples = await interleave(
            cases, rounds=min(3, scale.rounds), units=max(tasks, scale.units), tasks=tasks
        )
        for who in cases:
            series[who].append((tasks, 1e6 / median(samples[who], "wall")))
    points = [int(tasks) for tasks, _ in next(iter(series.values()))]
    rows: list[tuple[Cell, ...]] = [
        (who, *(round(rate) for _, rate in line)) for who, line in series.items()
    ]
    columns = ("units per second", *(f"{tasks:,} tasks" for tasks in points))
    plot = Plot(f"growth-{name}", title, "tasks at once", "units per second", series, log=True)
    return Table(title, columns, rows), plot
