"""What a benchmark says, and how it is written: tables, plots, facts for the goals, Markdown.

Every module of this folder that measures offers `NAME` and `async def measure(scale) -> Section`.
"""

import datetime as dt
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

#: Everything whose version may move a number, by its name on the package index.
PACKAGES = (
    "sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "greenlet", "uvloop", "aiogram", "aiohttp",
    "msgspec", "pydantic", "structlog", "prometheus-client", "opentelemetry-sdk", "transitions",
    "advanced-alchemy", "nonebot2", "nonebot-plugin-orm", "blinker", "pyee", "psygnal", "aiosignal",
    "python-statemachine", "faststream-outbox", "redis",
)  # fmt: skip

Cell = str | float | int
#: A cell of a table where there is nothing to measure.
NONE = "-"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        rounds: Interleaved rounds; a table shows the median over them. Between five and eleven,
            ratios of two runs differ alike: by 0.03 with 50 tasks, by 0.05 one after the other.
        units: Repetitions of the thing measured within one round; three for each of 50 tasks keep
            the whole within a quarter of an hour.
        quick: True to see that everything works, not to quote numbers.
        urls: Databases to measure, with their drivers; a server is launched when there are none.
        loop: The event loop the process runs on, `asyncio` or `uvloop`.
        setting: Which of a module's settings to measure, where it has several.
        note: A sentence about the server at *urls*.
        python: What starts Python for a process, as the first words of a command line.
    """

    rounds: int = 5
    units: int = 150
    quick: bool = False
    urls: tuple[str, ...] = ()
    loop: str = "asyncio"
    setting: str = ""
    note: str = ""
    python: tuple[str, ...] = (sys.executable,)


@dataclass(frozen=True)
class Table:
    """Rows under column names.

    Args:
        title: What it compares, with its unit.
        columns: The names above the cells.
        rows: One tuple as long as *columns* each.
        note: A sentence below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis.

    Args:
        name: Stem of the file, unique in the report.
        title: What it shows.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        series: Points of each line, by its name.
        log: True for logarithmic axes.
    """

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]
    log: bool = False


@dataclass(frozen=True)
class Section:
    """What one module measured.

    Args:
        title: Heading.
        text: What was measured and how, in two to five sentences.
        tables: Its tables.
        plots: Its plots.
        facts: Numbers that `benchmarks.goals` judges, by the names that it lists.
    """

    title: str
    text: str
    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def number(value: Cell) -> str:
    """Return *value* with three significant digits, thousands set apart."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:  # noqa: PLR2004 -- three digits stand already
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"  # noqa: PLR2004 -- two digits


def table_text(table: Table) -> str:
    """Return *table* in Markdown; numbers stand at the right."""
    numeric = [
        not any(isinstance(row[i], str) and row[i] not in {"", NONE} for row in table.rows)
        for i in range(len(table.columns))
    ]
    lines = [
        f"**{table.title}**",
        "",
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join("---:" if right else "---" for right in numeric) + " |",
        *("| " + " | ".join(number(cell) for cell in row) + " |" for row in table.rows),
    ]
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def section_text(section: Section, folder: str = "performance") -> str:
    """Return *section* in Markdown; plots are looked for in *folder*."""
    parts = [f"## {section.title}", section.text, *map(table_text, section.tables)]
    parts += [f"![{plot.title}]({folder}/{plot.name}.svg)" for plot in section.plots]
    return "\n\n".join(parts)


def machine() -> Iterable[tuple[str, str]]:
    """Yield what the numbers depend on: processor, system, Python, packages."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    yield "processor", f"{model}, {os.cpu_count()} cores"
    yield "system", f"{platform.system()} {platform.release()}"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "packages", ", ".join(_versions())


def _versions() -> Iterable[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} missing"


def render(sections: Sequence[Section], command: str) -> str:
    """Return the whole report in Markdown.

    Args:
        sections: In the order of reading.
        command: What reproduces it.
    """
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    facts = [("command", f"`{command}`"), ("date", today), *machine()]
    intro = (
        f"Written by `{command}`, never by hand: what is slower here than elsewhere stays slower "
        "here. Numbers of one table come from one run, in which the contenders took turns; a "
        "ratio is the median of its ratios within the rounds, and lower is better unless the "
        "column says otherwise. Microseconds depend on the machine, ratios much less."
    )
    lines = [
        "# Performance",
        "",
        intro,
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts),
    ]
    return "\n\n".join(["\n".join(lines), *map(section_text, sections)]) + "\n"


def write(sections: Sequence[Section], command: str, folder: Path) -> None:
    """Write performance.md into *folder*, and its plots into performance/, which keeps no others.

    Args:
        sections: In the order of reading.
        command: What reproduces it.
        folder: Where documents are.
    """
    (folder / "performance.md").write_text(render(sections, command), encoding="utf-8")
    for old in (folder / "performance").glob("*.svg"):
        old.unlink()
    for plot in (plot for section in sections for plot in section.plots):
        draw(plot, folder / "performance")


def draw(plot: Plot, folder: Path) -> Path:
    """Write *plot* as an SVG that reads on light and dark pages, the same for the same points.

    Returns:
        The file.
    """
    import matplotlib as mpl  # noqa: PLC0415 -- only the whole report draws
    from matplotlib.figure import Figure  # noqa: PLC0415 -- the same
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter  # noqa: PLC0415 -- the same

    grey = "#7d8590"  # as far from white as from black
    look = {
        "svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 10,
        "text.color": grey, "axes.labelcolor": grey, "axes.edgecolor": grey,
        "xtick.color": grey, "ytick.color": grey, "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip
    with mpl.rc_context(look):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        colours = ("#3b8eea", "#e0743c", "#2fa36b", "#c65fb0", "#b8962e", "#8a6fe8", "#7d8590")
        markers = "osD^vPX"
        for i, (name, points) in enumerate(plot.series.items()):
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=name,
                color=colours[i % len(colours)],
                marker=markers[i % len(markers)],
                markersize=4,
            )
        if plot.log:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(sorted({x for points in plot.series.values() for x, _ in points}))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
                axis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(visible=True, alpha=0.25)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{plot.name}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})
    return path
