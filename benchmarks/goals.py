"""The goals, judged by what the other sections measured; nobody writes a verdict by hand.

A section leaves numbers in its `facts`; here stands which number has to stay under which bound.
Names of facts of units are made by `fact`; the others are:

| fact | meaning |
| --- | --- |
| `bot.unused` | an update through the middleware, unit not opened / the same without it |
| `bot.unit` | an update with a unit of one statement / with the usual session middleware |
| `bus.nobody` | nanoseconds of a publish to which nobody listens |
| `bus.one` | microseconds of building an event and calling its one plain subscriber |
| `bus.rivals` | ours / the fastest of blinker, pyee and psygnal, where that is largest |
| `plugins.thousand` | seconds of start and stop of 1,000 plugins |
| `plugins.growth` | seconds for one plugin of 1,000 / for one of 100 |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import NONE, Cell, Section, Table, number

NAME = "goals"

#: Written by hand: why a goal is missed, each with its measurement. Joined to the verdicts.
EXPLAINED = Path(__file__).with_name("explained.md")


def fact(setting: str, work: str, who: str, mode: str) -> str:
    """Return the name of a ratio: of whom, doing what, where, and `50 tasks cpu` or the like."""
    return f"{setting} | {work} | {who} | {mode}"


@dataclass(frozen=True)
class Goal:
    """One bound.

    Args:
        work: What is done.
        bound: The largest number that is good.
        facts: The numbers, by what they are called in the table; the worst of them counts.
        unit: What stands behind the numbers.
    """

    work: str
    bound: float
    facts: Mapping[str, str]
    unit: str = ""


def _pg(who: str, mode: str, *works: str, setting: str = "asyncpg") -> dict[str, str]:
    return {work: fact(setting, work, who, mode) for work in works}


_ONE = ("INSERT", "SELECT by key")
_CPU, _WALL = "50 tasks cpu", "sequential wall"
_SESSION, _CORE, _DRIVER = "PostgreSQL, uow.session", "PostgreSQL, uow.connection", "uow.driver()"

GOALS: tuple[Goal, ...] = (
    Goal(f"{_SESSION}, 50 tasks, CPU", 0.80, _pg("uow.session", _CPU, *_ONE)),
    Goal(f"{_SESSION}, sequential, wall", 0.90, _pg("uow.session", _WALL, *_ONE)),
    Goal(
        "the same with metrics and JSON log lines, 50 tasks, CPU",
        0.90,
        _pg("metrics and logs", _CPU, *_ONE, setting="prices"),
    ),
    Goal(
        "the same with metrics and JSON log lines, sequential, wall",
        0.98,
        _pg("metrics and logs", _WALL, *_ONE, setting="prices"),
    ),
    Goal(
        "metrics and JSON log lines / the unit without them, 50 tasks, CPU",
        1.05,
        {work: fact("prices", work, "metrics and logs", f"{_CPU} of unwatched") for work in _ONE},
    ),
    Goal(
        "metrics and JSON log lines / the unit without them, sequential, wall",
        1.05,
        {work: fact("prices", work, "metrics and logs", f"{_WALL} of unwatched") for work in _ONE},
    ),
    Goal(f"{_CORE}, 50 tasks, CPU", 0.70, _pg("uow.connection", _CPU, *_ONE)),
    Goal(f"{_CORE}, sequential, wall", 0.80, _pg("uow.connection", _WALL, *_ONE)),
    Goal(f"PostgreSQL, {_DRIVER}, 50 tasks, CPU", 0.33, _pg(_DRIVER, _CPU, *_ONE)),
    Goal(f"PostgreSQL, {_DRIVER}, sequential, wall", 0.55, _pg(_DRIVER, _WALL, *_ONE)),
    Goal(
        f"{_DRIVER} / raw asyncpg pool and transaction, sequential, wall",
        1.25,
        {work: f"driver/asyncpg | {work} | {_WALL}" for work in _ONE},
    ),
    Goal(
        f"{_DRIVER} / raw asyncpg pool and transaction, 50 tasks, CPU",
        1.25,
        {work: f"driver/asyncpg | {work} | {_CPU}" for work in _ONE},
    ),
    Goal("read_only, one SELECT", 1, {"": "round trips | read_only session"}, "round trip(s)"),
    Goal(
        "read_only, one SELECT, sequential, wall",
        0.50,
        _pg("read_only session", _WALL, "SELECT by key"),
    ),
    Goal(
        "read_only, one SELECT, 50 tasks, CPU",
        0.55,
        _pg("read_only session", _CPU, "SELECT by key"),
    ),
    Goal("empty unit", 0, {"": "round trips | empty unit"}, "round trips"),
    Goal("empty unit, CPU", 5, {"": "empty µs"}, "µs"),
    Goal("empty unit with metrics, CPU", 10, {"": "empty µs with metrics"}, "µs"),
    Goal("update through the middleware, unit not opened / without it", 1.02, {"": "bot.unused"}),
    Goal("update with one unit / the usual session middleware", 0.90, {"": "bot.unit"}),
    Goal(
        "SQLite, one INSERT / SQLAlchemy's defaults, sequential, wall",
        0.33,
        {"": fact("sqlite", "INSERT", "uow.session", _WALL)},
    ),
    Goal(
        "SQLite, one INSERT / SQLAlchemy with the same WAL, sequential, wall",
        0.50,
        {"": f"uow/same WAL | {_WALL}"},
    ),
    Goal("SQLite, one INSERT", 2, {"": "thread hops | uow.session"}, "thread hops"),
    Goal("SQLite, 50 writers", 0, {"": "contention lost"}, "lost updates"),
    Goal("SQLite, 50 writers", 0, {"": "contention errors"}, "errors"),
    Goal("SQLite, 50 writers, p99 / plain BEGIN IMMEDIATE", 0.15, {"": "contention p99"}),
    Goal("liveness check / without it, 50 tasks, CPU", 1.02, {"": "liveness cpu"}),
    Goal("liveness check / without it, sequential, wall", 1.02, {"": "liveness wall"}),
    Goal("liveness check", 0, {"": "round trips | liveness check"}, "round trips more"),
    Goal("bus: nobody listens", 60, {"": "bus.nobody"}, "ns"),
    Goal("bus: event built and one plain subscriber called", 0.6, {"": "bus.one"}, "µs"),
    Goal("bus / the fastest of blinker, pyee, psygnal", 1.0, {"": "bus.rivals"}),
    Goal("start and stop of 1,000 plugins", 0.5, {"": "plugins.thousand"}, "s"),
    Goal("start and stop, one plugin of 1,000 / one of 100 (linear)", 1.3, {"": "plugins.growth"}),
)


def judge(sections: list[Section]) -> Section:
    """Return the table of the goals, each with what *sections* measured.

    Args:
        sections: All that were measured; a goal whose numbers are missing is not judged.
    """
    facts: dict[str, float] = {}
    for section in sections:
        facts |= section.facts
    rows = [_row(goal, facts) for goal in GOALS]
    verdicts = [row[-1] for row in rows]
    counted = ", ".join(
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("met", "missed", "not measured")
        if verdict in verdicts
    )
    text = (
        f"Judged by the program from the tables below: {counted}. Ratios are to "
        "`async_sessionmaker(engine, expire_on_commit=False).begin()` in the same round unless "
        "the line names another; where a goal is measured on two kinds of statement, the worse "
        "one counts."
    )
    explained = EXPLAINED.read_text(encoding="utf-8").strip() if EXPLAINED.exists() else ""
    table = Table("Goals", ("work", "goal", "measured", ""), rows, explained)
    return Section("Goals", text, [table])


def _row(goal: Goal, facts: Mapping[str, float]) -> tuple[Cell, ...]:
    bound = f"{'≤ ' if goal.bound else ''}{_amount(goal.bound, goal.unit)}"
    known = {name: facts[key] for name, key in goal.facts.items() if key in facts}
    if len(known) < len(goal.facts):
        return goal.work, bound, NONE, "not measured"
    measured = ", ".join(
        f"{name} {_amount(_fair(value, goal.bound), goal.unit)}".strip()
        for name, value in known.items()
    )
    return goal.work, bound, measured, "met" if max(known.values()) <= goal.bound else "missed"


def _fair(value: float, bound: float) -> float:
    """Return *value* as it is shown; what is over the bound is never rounded down to it."""
    shown = round(value, 2)
    return shown + 0.01 if value > bound >= shown else shown


def _amount(value: float, unit: str) -> str:
    whole = int(value) if value == int(value) and (unit or value == 0) else value
    return f"{number(whole)} {unit}".strip()
