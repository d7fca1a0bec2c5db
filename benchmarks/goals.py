r"""The goals, judged by what the other sections measured; nobody writes a verdict by hand.

A section leaves numbers in its `facts`; here stands which number has to stay under which bound.
Names of facts of units are made by `goal.fact`; the others are:

| fact | meaning |
| --- | --- |
| `bot.unused` | an update through the middleware, unit not opened / the same without it |
| `bot.unit` | an update with a unit of one statement / with the usual session middleware |
| `start …` | of a process with a bot: MiB more, and CPU / aiogram and SQLAlchemy alone |
| `growth …` | MiB of resident memory after many units |
| `migrate nothing ms` | CPU of a start with 100 files and nothing to do, over one without |
| `migrate … s` | CPU of 100 revisions from nothing, and of a command as a process |
| `bus.nobody` | nanoseconds of a publish to which nobody listens |
| `bus.one` | microseconds of building an event and calling its one plain subscriber |
| `bus.rivals` | ours / the fastest of blinker, pyee and psygnal, where that is largest |
| `plugins.thousand` | seconds of start and stop of 1,000 plugins |
| `plugins.growth` | seconds for one plugin of 1,000 / for one of 100 |
| `… \| store` | 100 updates stored at once / 100 single ones |
| `… \| relay` | messages sent from the table / bare calls, 100 at once |
| `… \| broadcast call s` | seconds of the call for 100,000 chats |
| `… \| broadcast p99` | p99 of replies while a broadcast runs / while it is paused |
| `fsm …` | our storage of conversations / aiogram's for Redis, where there is one |
| `calls …` | calls of functions more in an empty unit |
"""

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.delivery_goals import DELIVERY
from benchmarks.goal import Goal, fact
from benchmarks.report import NONE, Cell, Section, Table, number

NAME = "goals"

#: Written by hand: why a goal may be missed, each with its measurement. A paragraph ends with the
#: beginnings of the goals that it is for, and is shown when one of them is missed.
EXPLAINED = Path(__file__).with_name("explained.md")
FOR = re.compile(r"\s*<!-- for: (.+?) -->")


#: The floors, by what their sections call them.
_FLOOR = "asyncpg, no reset (floor)"
_READ_FLOOR = "asyncpg, no reset, no transaction (floor of read_only)"
_THREAD = "sqlite3 in a thread (floor)"
_IN_PLACE = "sqlite3 on the loop's thread (floor of read_only)"


def _pg(who: str, mode: str, bound: float, *works: str, floor: str = _FLOOR) -> Goal:
    """Return the goal of *who* on PostgreSQL, beside the bare driver."""
    numbers = {work: fact("asyncpg", work, who, mode) for work in works}
    below = {work: fact("asyncpg", work, floor, mode) for work in works}
    what = "" if works == _ONE else ", objects" if works == _ORM else f", {works[0]}"
    return Goal(f"PostgreSQL, {who}{what}, {_WORDS[mode]}", bound, numbers, floor=below)


def _watched(observers: str, mode: str, bound: float) -> Goal:
    """Return the goal of *observers*: what they add to a unit that nobody watches."""
    facts = {work: fact("prices", work, observers, f"{mode} of unwatched") for work in _ONE}
    return Goal(f"{observers} / the unit without them, {_WORDS[mode]}", bound, facts)


def _near(setting: str, words: str, *works: str) -> Goal:
    """Return the goal of *setting*: the ratios there are those of asyncio and asyncpg."""
    mine = {work: fact(setting, work, "uow.session", _CPU) for work in works}
    theirs = {work: fact("asyncpg", work, "uow.session", _CPU) for work in works}
    return Goal(
        f"PostgreSQL, {words} / more than asyncpg, {_WORDS[_CPU]}", 0.05, mine, above=theirs
    )


_ONE = ("INSERT", "SELECT by key")
_GET, _MANY = "ORM get", "ORM SELECT of 19 objects"
_ORM = ("ORM add", _GET, "ORM get and change", _MANY)
_CPU, _WALL = "50 tasks cpu", "sequential wall"
_WORDS = {_CPU: "50 tasks, CPU", _WALL: "sequential, wall"}
_DRIVER, _READING = "uow.driver()", "read_only session"
_LINES, _ALL = "metrics and logs", "everything, a tenth of the spans"

GOALS: tuple[Goal, ...] = (
    _pg("uow.session", _CPU, 0.80, *_ONE),
    _pg("uow.session", _WALL, 0.90, *_ONE),
    _pg("uow.session", _WALL, 0.90, "three statements"),
    *(
        _pg("uow.session", _CPU, bound, work)
        for work, bound in zip(_ORM, (0.80, 0.70, 0.80, 0.90), strict=True)
    ),
    _pg(_READING, _CPU, 0.50, _GET, floor=_READ_FLOOR),
    _pg("uow.session", _WALL, 0.90, *_ORM),
    _pg(_READING, _WALL, 0.90, _GET, floor=_READ_FLOOR),
    _near("uvloop", "uow.session under uvloop", *_ONE, *_ORM),
    _near("psycopg", "uow.session on psycopg", *_ONE, *_ORM),
    Goal(
        "the same with metrics and JSON log lines, 50 tasks, CPU",
        0.90,
        {work: fact("prices", work, _LINES, _CPU) for work in _ONE},
    ),
    Goal(
        "the same with metrics and JSON log lines, sequential, wall",
        0.98,
        {work: fact("prices", work, _LINES, _WALL) for work in _ONE},
    ),
    _watched(_LINES, _CPU, 1.05),
    _watched(_LINES, _WALL, 1.05),
    _watched(_ALL, _CPU, 1.10),
    _pg("uow.connection", _CPU, 0.70, *_ONE),
    _pg("uow.connection", _WALL, 0.80, *_ONE),
    _pg(_DRIVER, _CPU, 0.33, *_ONE),
    _pg(_DRIVER, _WALL, 0.55, *_ONE),
    *(
        Goal(
            f"{_DRIVER} / raw asyncpg pool and transaction, {_WORDS[mode]}",
            bound,
            {work: f"driver/asyncpg | {work} | {mode}" for work in _ONE},
            floor={work: f"floor/asyncpg | {work} | {mode}" for work in _ONE},
        )
        for mode, bound in ((_WALL, 1.25), (_CPU, 1.10))
    ),
    Goal("read_only, one SELECT", 1, {"": "round trips | read_only session"}, "round trip(s)"),
    _pg(_READING, _WALL, 0.50, "SELECT by key", floor=_READ_FLOOR),
    _pg(_READING, _CPU, 0.55, "SELECT by key", floor=_READ_FLOOR),
    Goal("empty unit", 0, {"": "round trips | empty unit"}, "round trips"),
    Goal("empty unit, CPU", 4.5, {"": "empty µs"}, "µs"),
    Goal("empty unit with metrics, CPU", 7.5, {"": "empty µs with metrics"}, "µs"),
    Goal("update through the middleware, unit not opened / without it", 1.02, {"": "bot.unused"}),
    Goal("update with one unit / the usual session middleware", 0.85, {"": "bot.unit"}),
    Goal(
        "SQLite, one INSERT / SQLAlchemy's defaults, sequential, wall",
        0.33,
        {"": fact("sqlite", "INSERT", "uow.session", _WALL)},
        floor={"": fact("sqlite", "INSERT", _THREAD, _WALL)},
    ),
    Goal(
        "SQLite, one INSERT / SQLAlchemy with the same WAL, sequential, wall",
        0.50,
        {"": f"uow/same WAL | {_WALL}"},
        floor={"": f"floor/same WAL | {_WALL}"},
    ),
    Goal(
        "SQLite, read_only, one SELECT / SQLAlchemy's defaults, sequential, wall",
        0.12,
        {"": fact("sqlite", "SELECT by key", _READING, _WALL)},
        floor={"": fact("sqlite", "SELECT by key", _IN_PLACE, _WALL)},
    ),
    Goal("SQLite, one INSERT", 2, {"": "thread hops | uow.session"}, "thread hops"),
    Goal("SQLite, 50 writers", 0, {"": "contention lost"}, "lost updates"),
    Goal("SQLite, 50 writers", 0, {"": "contention errors"}, "errors"),
    Goal("SQLite, 50 writers, p99 / plain BEGIN IMMEDIATE", 0.15, {"": "contention p99"}),
    Goal("liveness check / without it, 50 tasks, CPU", 1.02, {"": "liveness cpu"}),
    Goal("liveness check / without it, sequential, wall", 1.02, {"": "liveness wall"}),
    Goal("liveness check", 0, {"": "round trips | liveness check"}, "round trips more"),
    Goal("start of a bot / aiogram and SQLAlchemy alone, CPU", 1.15, {"": "start ratio"}),
    Goal(
        "start of a bot, memory over that of aiogram and SQLAlchemy", 12, {"": "start MiB"}, "MiB"
    ),
    Goal(
        "growth over 1,000,000 empty units, 20,000 with a SELECT and 20,000 with an object",
        0.5,
        {"": "growth units"},
        "MiB",
    ),
    Goal("growth over 12 bursts of 1,000 tasks", 0.5, {"": "growth bursts"}, "MiB"),
    Goal(
        "start with nothing to migrate, 3 plugins and 100 files, over one without, CPU",
        5,
        {"": "migrate nothing ms"},
        "ms",
    ),
    Goal("100 revisions from nothing, SQLite, CPU", 4, {"": "migrate all s"}, "s"),
    *(
        Goal(
            f"db-manager migrate, a bot {bot}, CPU",
            1.5,
            {verb: f"migrate {verb}, a bot {bot} s" for verb in ("revision", "upgrade")},
            "s",
        )
        for bot in ("without aiogram", "of init")
    ),
    Goal("bus: nobody listens", 60, {"": "bus.nobody"}, "ns"),
    Goal("bus: event built and one plain subscriber called", 0.6, {"": "bus.one"}, "µs"),
    Goal("bus / the fastest of blinker, pyee, psygnal", 1.0, {"": "bus.rivals"}),
    Goal("start and stop of 1,000 plugins", 0.5, {"": "plugins.thousand"}, "s"),
    Goal("start and stop, one plugin of 1,000 / one of 100 (linear)", 1.3, {"": "plugins.growth"}),
    *DELIVERY,
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
        "the line names another; where a goal is measured on several kinds of work, the worst "
        "one counts. The floor is what the bare driver needs for the same: nobody gets below."
    )
    missed = [str(row[0]) for row in rows if row[-1] == "missed"]
    table = Table("Goals", ("work", "goal", "measured", "floor", ""), rows, explained(missed))
    return Section("Goals", text, [table])


def explained(missed: list[str]) -> str:
    """Return why these goals are missed; of one without a paragraph, that nobody knows.

    Args:
        missed: Their works.
    """
    if not missed:
        return ""
    first, *paragraphs = EXPLAINED.read_text(encoding="utf-8").strip().split("\n\n")
    unknown = list(missed)
    shown = []
    for paragraph in paragraphs:
        beginnings = tuple(FOR.findall(paragraph))
        if found := [work for work in missed if work.startswith(beginnings)]:
            shown.append(FOR.sub("", paragraph))
            unknown = [work for work in unknown if work not in found]
    shown += [f"* **{work}.** Missed in this run; why is not known." for work in unknown]
    return "\n".join([first, "", *shown])


def _row(goal: Goal, facts: Mapping[str, float]) -> tuple[Cell, ...]:
    bound = f"{'≤ ' if goal.bound else ''}{_amount(goal.bound, goal.unit)}"
    floor = ", ".join(
        f"{name} {_amount(facts[key], goal.unit)}".strip()
        for name, key in goal.floor.items()
        if key in facts
    )
    if not {*goal.facts.values(), *goal.above.values()} <= facts.keys():
        return goal.work, bound, NONE, floor or NONE, "not measured"
    known = {name: facts[key] for name, key in goal.facts.items()}
    for name, key in goal.above.items():
        known[name] -= facts[key]
    measured = ", ".join(
        f"{name} {_amount(_fair(value, goal.bound), goal.unit)}".strip()
        for name, value in known.items()
    )
    verdict = "met" if max(known.values()) <= goal.bound else "missed"
    return goal.work, bound, measured, floor or NONE, verdict


def _fair(value: float, bound: float) -> float:
    """Return *value* as it is shown; what is over the bound is never rounded down to it."""
    shown = round(value, 2)
    return shown + 0.01 if value > bound >= shown else shown


def _amount(value: float, unit: str) -> str:
    whole = int(value) if value == int(value) and (unit or value == 0) else value
    return f"{number(whole)} {unit}".strip()
