"""The benchmarks run, say what they say in good form, and judge by what was measured.

Python is forked for them, so that SQLAlchemy and aiogram are imported already.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.forks import forked

from benchmarks import goals
from benchmarks.__main__ import JOBS, Job
from benchmarks.job import run_apart
from benchmarks.report import (
    NONE,
    Plot,
    Scale,
    Section,
    Table,
    draw,
    number,
    render,
    table_text,
    write,
)
from benchmarks.rounds import Sample, median, ratio

ROOT = Path(__file__).parents[1]

#: One SVG has no other place for a date than this.
_DATE = re.compile(r"<dc:date>")
#: Only the full measurement knows these: a thousand plugins take a while, Redis has to be named.
_FULL_ONLY = ("plugins.", "fsm ")
#: What claims a speed: a time of ours, or a comparison.
_CLAIM = re.compile(
    r"([\d.,]+)\s?(?:µs|ns|units/s|units per second|times (?:faster|slower|cheaper))"
)


@pytest.fixture(scope="module")
def group() -> None:
    """Need the packages of the group `bench`, which are not there for `make test-lowest`."""
    for name in ("advanced_alchemy", "matplotlib"):
        pytest.importorskip(name, reason="not run: the group bench is not installed")


@pytest.fixture(scope="module")
def measured(group: None, postgres_admin: URL) -> dict[Job, Section]:
    """Every section, on the smallest scale."""
    del group
    url = postgres_admin.render_as_string(hide_password=False)

    def run(job: Job) -> Section:
        settings = {"loop": job.loop, "setting": job.setting, "note": "A note."}
        return run_apart(job.module, Scale(1, 10, True, (url,), python=forked(), **settings))  # noqa: FBT003 -- quick

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(JOBS, threads.map(run, JOBS), strict=True))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.module}-{job.setting}".strip("-"))
def test_a_section_is_well_formed(measured: dict[Job, Section], job: Job) -> None:
    """A section says how it was measured, and every row has a finite cell for every column."""
    section = measured[job]
    assert section.title
    assert section.text.endswith(".")
    assert section.tables
    for table in section.tables:
        assert table.rows, table.title
        for row in table.rows:
            assert len(row) == len(table.columns), (table.title, row)
            assert all(isinstance(cell, str) or math.isfinite(cell) for cell in row)
    for plot in section.plots:
        assert all(len(points) > 1 for points in plot.series.values()), plot.name
    assert all(math.isfinite(value) for value in section.facts.values())


@pytest.mark.timeout(600)
def test_a_plot_has_a_file_of_its_own(measured: dict[Job, Section]) -> None:
    """No two plots of the report write the same file."""
    names = Counter(plot.name for section in measured.values() for plot in section.plots)
    assert names
    assert set(names.values()) == {1}


@pytest.mark.timeout(600)
def test_every_goal_is_measured(measured: dict[Job, Section]) -> None:
    """Each number that a goal asks for is left by some section."""
    left = {name for section in measured.values() for name in section.facts}
    asked = {
        name
        for goal in goals.GOALS
        for names in (goal.facts, goal.above, goal.floor)
        for name in names.values()
    }
    assert {name for name in asked - left if not name.startswith(_FULL_ONLY)} == set()


@pytest.mark.timeout(600)
def test_what_is_counted_is_what_is_promised(measured: dict[Job, Section]) -> None:
    """Counts do not depend on the machine: round trips, thread hops, lost updates and errors."""
    facts: dict[str, float] = {}
    for section in measured.values():
        facts |= section.facts
    assert facts["round trips | empty unit"] == 0
    assert facts["round trips | read_only session"] == 1
    assert facts["round trips | uow.session"] == 3
    assert facts["round trips | liveness check"] == 0
    assert facts["thread hops | uow.session"] == 2
    assert facts["contention lost"] == 0
    assert facts["contention errors"] == 0
    beyond = {
        (system, who, what): facts[f"{system} | counted | {who} | {what}"]
        for system in ("postgresql", "sqlite")
        for who in ("outbox: uow.send", "inbox and outbox")
        for what in ("statements", "transactions")
    }
    assert beyond == {
        ("postgresql", "outbox: uow.send", "statements"): 2,
        ("postgresql", "outbox: uow.send", "transactions"): 1,
        ("postgresql", "inbox and outbox", "statements"): 3,
        ("postgresql", "inbox and outbox", "transactions"): 2,
        ("sqlite", "outbox: uow.send", "statements"): 2,
        ("sqlite", "outbox: uow.send", "transactions"): 1,
        ("sqlite", "inbox and outbox", "statements"): 4,
        ("sqlite", "inbox and outbox", "transactions"): 2,
    }


def verdicts(facts: dict[str, float]) -> dict[str, list[str]]:
    """Return the last cells of the goals' rows, by work."""
    (table,) = goals.judge([Section("Any", "Any.", [], facts=facts)]).tables
    found: dict[str, list[str]] = {}
    for row in table.rows:
        found.setdefault(str(row[0]), []).append(str(row[-1]))
    return found


def test_a_goal_is_met_only_when_its_worst_number_is() -> None:
    """One of two statements over the bound misses the goal; a missing one is no verdict."""
    goal = goals.GOALS[0]
    first, second = goal.facts.values()
    assert verdicts({first: goal.bound, second: goal.bound})[goal.work] == ["met"]
    assert verdicts({first: 0.1, second: goal.bound + 0.01})[goal.work] == ["missed"]
    assert verdicts({first: 0.1})[goal.work] == ["not measured"]


def test_a_goal_that_is_missed_is_explained() -> None:
    """Only what is missed is explained, each with its paragraph; else it says that nobody knows."""
    driver, other = "PostgreSQL, uow.driver(), 50 tasks, CPU", "a goal that nobody has explained"
    text = goals.explained([driver, other])
    assert "* **`uow.driver()`." in text
    assert f"* **{other}.** Missed in this run; why is not known." in text
    assert "An empty unit" not in text
    assert "<!--" not in text
    assert goals.explained([]) == ""


def test_every_explanation_is_for_a_goal() -> None:
    """Each paragraph begins as a goal does that is there."""
    works = [goal.work for goal in goals.GOALS]
    for paragraph in goals.EXPLAINED.read_text(encoding="utf-8").strip().split("\n\n")[1:]:
        beginnings = goals.FOR.findall(paragraph)
        assert beginnings, paragraph
        for beginning in beginnings:
            assert any(work.startswith(beginning) for work in works), beginning


def test_a_number_just_over_its_bound_is_not_shown_as_the_bound() -> None:
    """What was missed by a little reads as missed."""
    goal = goals.GOALS[0]
    facts = dict.fromkeys(goal.facts.values(), goal.bound + 0.002)
    (table,) = goals.judge([Section("Any", "Any.", [], facts=facts)]).tables
    row = table.rows[0]
    assert row[-1] == "missed"
    assert f"{goal.bound:.2f}," not in f"{row[2]},"


def test_a_ratio_is_taken_within_its_round() -> None:
    """A round that was slow for everybody changes no ratio."""
    base = [Sample(1.0, 1.0), Sample(10.0, 10.0), Sample(1.0, 1.0)]
    half = [Sample(one.wall / 2, one.cpu / 4) for one in base]
    assert ratio(half, base, "wall") == 0.5
    assert ratio(half, base, "cpu") == 0.25
    assert median(base, "wall") == 1e6


def test_numbers_are_short_and_lie_right() -> None:
    """Three digits are enough for people; a column of numbers and gaps is aligned to the right."""
    assert [number(value) for value in (12345.6, 99.5, 0.123, 0.0123, 0.0, 7, "x")] == [
        "12,346", "99.50", "0.12", "0.012", "0", "7", "x",
    ]  # fmt: skip
    text = table_text(Table("T", ("who", "µs"), [("a", 1.5), ("b", NONE)], "A note."))
    assert "| --- | ---: |\n| a | 1.50 |\n| b | - |\n\nA note." in text


def test_the_report_names_what_it_depends_on() -> None:
    """Command, date, processor, Python and packages stand above the sections."""
    plot = Plot("p", "A plot", "x", "y", {"a": [(1, 1), (2, 2)]})
    text = render([Section("Any", "How.", [Table("T", ("a",), [(1,)])], [plot])], "make bench")
    for part in ("`make bench`", "| date | 20", "| processor |", "sqlalchemy 2", "CPython 3."):
        assert part in text
    assert text.index("| packages |") < text.index("## Any") < text.index("![A plot](performance/p")


@pytest.mark.usefixtures("group")
def test_every_picture_of_the_report_is_there_and_no_old_one(tmp_path: Path) -> None:
    """Each plot that the page shows has its file; files of plots that are gone are removed."""
    pictures = tmp_path / "performance"
    pictures.mkdir()
    (pictures / "old.svg").write_text("<svg/>")
    plots = [Plot(name, name, "x", "y", {"a": [(1, 1), (2, 2)]}) for name in ("one", "two")]
    section = Section("Any", "How.", [Table("T", ("a",), [(1,)])], plots)
    write([section], "make bench", tmp_path)
    shown = re.findall(r"\]\(([^)]+)\)", (tmp_path / "performance.md").read_text(encoding="utf-8"))
    assert shown == ["performance/one.svg", "performance/two.svg"]
    assert {path.name for path in pictures.iterdir()} == {"one.svg", "two.svg"}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("log", [False, True])
def test_a_plot_is_the_same_file_for_the_same_points(tmp_path: Path, *, log: bool) -> None:
    """Drawn twice, byte for byte: no date, no random names; its words are text."""
    plot = Plot("growth", "Growth of x", "tasks", "µs", {"one": [(1, 2), (10, 3), (100, 9)]}, log)
    first = draw(plot, tmp_path / "a").read_bytes()
    again = draw(dataclasses.replace(plot), tmp_path / "b").read_bytes()
    assert first == again
    assert not _DATE.search(first.decode())
    assert ">Growth of x<" in first.decode()


def claims(text: str) -> Iterator[str]:
    """Yield the numbers of *text* that claim a speed."""
    for line in text.splitlines():
        yield from (match[1].strip(".,") for match in _CLAIM.finditer(line))


def test_a_claim_of_speed_is_found() -> None:
    """The search below finds what it is for."""
    assert list(claims("An empty unit: 3.1 µs, 2 times faster.")) == ["3.1", "2"]
    assert list(claims("waits 5 s, and 10 ms at the server")) == []


@pytest.mark.parametrize("name", ["README.md", "README.ru.md", "docs/units.md"])
def test_no_page_claims_a_speed_that_was_not_measured(name: str) -> None:
    """Every number that claims a speed stands in docs/performance.md."""
    found = list(claims((ROOT / name).read_text(encoding="utf-8")))
    report = ROOT / "docs" / "performance.md"
    printed = report.read_text(encoding="utf-8") if report.exists() else ""
    assert [claim for claim in found if claim not in printed] == []
