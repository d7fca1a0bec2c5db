"""Collects what each row of the fault matrix saw; the full run writes docs/faults.md."""

import datetime as dt
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

Row = Callable[..., None]

_ROWS = pytest.StashKey[list[tuple[str, str, str]]]()
_REPORT: Final = Path(__file__).parents[2] / "docs" / "faults.md"
_PACKAGES: Final = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "asyncmy", "aiogram")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no rows."""
    config.stash[_ROWS] = []


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """Return a function that notes what a row saw: its id, its load, its result."""
    rows = request.config.stash[_ROWS]

    def note(name: str, *, load: str, result: str) -> None:
        rows.append((name, load, result))

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the rows, and write the report of a full run that went well."""
    noted = config.stash[_ROWS]
    rows = sorted(noted, key=_order)
    if not rows:
        return
    terminalreporter.section("fault matrix")
    for name, load, result in rows:
        terminalreporter.write_line(f"{name:5} {load}: {result}")
    if config.getoption("--faults") == "full" and not terminalreporter.stats.get("failed"):
        _REPORT.write_text(_report(rows), encoding="utf-8")
        terminalreporter.write_line(f"written to {_REPORT.name}")


def _order(row: tuple[str, str, str]) -> tuple[str, int, str]:
    name = row[0]
    digits = "".join(filter(str.isdigit, name)) or "0"
    return name.rstrip("0123456789'"), int(digits), row[1]


def _report(rows: list[tuple[str, str, str]]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    lines = [
        "# The fault matrix, as it ran",
        "",
        f"Written by `make faults` on {dt.datetime.now(tz=dt.UTC).date()},",
        f"Python {platform.python_version()}, {versions}.",
        "Every row was checked by an assertion; a failed row would have left this page as it was.",
        "What could not run says so.",
        "",
        "| row | load | result |",
        "| --- | --- | --- |",
        *(f"| {name} | {load} | {result} |" for name, load, result in rows),
        "",
    ]
    return "\n".join(lines)
