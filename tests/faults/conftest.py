"""Collects what each row of the fault matrix saw; the full run writes docs/faults.md."""

import datetime as dt
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from soak.report import section
from support.matrix import MARK, Row, note_row, rows_of
from support.progress import PACKAGES, PROGRESS, Progress
from support.scene import FULL, SHORT, Size

Note = Callable[..., None]

_REPORT: Final = Path(__file__).parents[2] / "docs" / "faults.md"

#: What each row has to show; the tests assert it.
_CRITERIA: Final = {
    "U1": "CancelledError each time; the state says committed exactly for the rows there",
    "U2": "the state says committed exactly for the rows there; nothing acknowledged is lost",
    "U3": "the row lock is free within 1.5 s",
    "U4": "returns within exit_timeout + 2.5 s; unknown outcome, or the block's own error",
    "U5": "unknown outcome each time; resolve is right each time; no retry",
    "U6": "rolled back before COMMIT, unknown in it; the next unit is well",
    "U7": "no unit fails",
    "U8": "DatabaseUnavailableError while it is down; the first unit afterwards is well",
    "U9": "typed errors only; back within 3 s; the sum is exact",
    "U10": "about 50 in time, the others told who holds; afterwards all are well",
    "U11": "no connection is lost to a cancelled waiter",
    "U12": "refused at once, not after pool_timeout",
    "U13": "the block's own exception object, with a note",
    "U14": "TransactionAbortedError, nothing written; with a savepoint the rest commits",
    "U15": "UnitOfWorkStateError that names the state",
    "U16": "UnitOfWorkTaskError; the next units on the same connection are well",
    "U17": "every outcome as without the observer; no connection leaks",
    "U18": "WrongEventLoopError; no backend is left",
    "U19": "done, or RetriesExhaustedError; the sum is exact; each effect once",
    "U20": "each key takes effect exactly once",
    "U21": "no update is lost; the next unit writes within 1 s",
    "U22": "no error",
    "U23": "refused or told; the state fits the rows; the next unit is well",
    "U25": "no state that differs from its rows; no connection lost; who was not disturbed commits",
    "U26": "all of an inner unit or nothing, as its state says; joined and failed: 0 rows",
    "U24": "before COMMIT: rolled back with its error; after it: committed, and reported",
    "O1": "no effect or message is lost, twice or out of order; none is of a unit that never was",
    "O2": "as O1, but what a killed process was sending may come twice, at most a window of "
    "messages, and one a kill in the mean where Telegram answers at once; all ends within 3 leases",
    "O3": "as O2; after a lost answer one message more may come twice",
    "O4": "as O2; who is frozen for longer than its lease is expelled",
    "O5": "parked after `attempts`, the error handler is called once; its chat goes on",
    "O6": "parked after `deaths`, and nobody else; all others as O1",
    "O7": "as O2, and repeats are recognised",
    "O8": "as O1, without code of the user",
    "O9": "as O1, but a message may come twice between its arrival and its mark",
    "O10": "another polls about a lease after its last sign of life; two ask at once only when a "
    "frozen one wakes",
    "O11": "done once, with the first unit that wrote; a second one is refused, nothing repeated",
    "O12": "nobody is expelled",
    "O13": "each is sent, once and in order; nothing waits for an owner",
    "O14": "dead, or sent as soon as Telegram takes it; no other chat waits",
    "O15": "nothing twice; what may be missing is unknown",
    "O16": "nothing is sent",
    "O17": "sent once, when it is due by the database's clock and that is there",
    "O18": "each gets it, twice at most what a killed process was sending; the counts are exact",
    "O19": "state, data and rows of a step are there together, or none of them",
    "O20": "each is there once, in the order of its key; none is of a unit that never was",
    "O21": "a reply reads what its own chat has ended, and no other; cheap again after it",
    "O22": "marks, stores and signs of life wait for no handler; nobody is expelled",
    "O23": "it ends well; the others send the rest, and wait for no lease",
    "O24": "as O2",
    "O25": "each arrives byte for byte; refused by name, and then nothing is written",
    "O26": "0 hits",
    "O27": "it waits for who knows it, with its chat and an event; then all is sent in order",
    "O28": "its check fails",
    "B1": "the sum is exact at every sample; acknowledged ⊆ there ⊆ acknowledged + unknown",
    "B2": "the sum is exact; acknowledged ⊆ there; each start within 2 s",
    "B3": "nothing acknowledged is lost; first acknowledgement within 3 s",
    "L1": "what had started is stopped; nothing is held; a second start works",
    "L2": "within the deadlines + 1 s; the others are stopped",
    "L3": "ends in the grace time; the journal has an end; no backend is left",
    "L4": "each hook once per life; no illegal transition",
    "L5": "20 committed, 2 rolled back and named, no backend left, within the grace time",
    "L6": "units go on; the queue is bounded; drops are counted",
    "L7": "every process starts; each table is created once",
    "J1": "never a wrong history; the next event can be read",
    "J2": "every acknowledged event is there, without a gap; a full disk is said once",
    "J3": "accepted exactly when it is legal; the error names the place",
    "J4": "the loop never waits for the file; every step is in it afterwards; the run has an end",
    "M1": "no error; each revision applied once and announced once; rows and indexes right",
    "M2": "nothing of it is left, repaired code applies; or refused by name until it is stamped",
    "M3": "kept, and migrated; what differs from the models is an event, and in `check`",
    "M4": "rows and children are kept",
    "M5": "a second revision has nothing to do",
    "M6": "Alembic is not imported; no more round trips than without migrations",
    "M7": "it starts, with one warning, and touches nothing",
    "M8": "migrated when the holder leaves; others wait for 2 s at a time",
    "M9": "ends within 1 s; the lock is free; then as M2",
    "M10": "as M1",
    "M11": "its migrations apply; a revision for it is refused",
    "M12": "refused before anything is connected; both files are named",
    "M13": "the same schema, rows and versions as an upgrade",
    "M14": "nothing else notices; `migrate` lists its tables as nobody's",
    "M15": "not cut; the bot is starting, and refuses units",
    "M16": "neither sees the other",
    "M17": "migrated before it is recovered; one that fails is tried once",
    "M18": "old replicas write and read on",
    "M19": "each revision applied once, in its own database",
    "M20": "the database answers when it is away; only who says so reads what is old",
    "M21": "it runs, ends well, and aiogram is not imported",
    "M22": "refused before COMMIT, with the table",
    "S1": "the password is nowhere",
    "S2": "no statement runs; one log line each; typed errors",
    "S3": "refused unless the server is who it says",
    "full": "every unit is served by the connections that the server leaves",
    "refused": "every unit is served by the connections that are there; nothing is degraded",
    "silent": "OperationalError within statement_timeout + 5 s; rolled back; the next unit is well",
    "S4": "the text of an error, which may hold what a user typed, is told nowhere",
    "kill": "the next start works and reports the crash",
    "late": "degraded, units fail at once, recovered",
    "lost": "degraded, units fail at once, recovered",
}


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Note:
    """Return a function that notes what a row saw: its id, its load, its result."""
    plain = "runner" in request.fixturenames and request.getfixturevalue("runner") == "plain"

    def note(name: str, *, load: str, result: str) -> None:
        note_row(request.node, Row(name, f"{load}; plain runner" if plain else load, result))

    return note


@pytest.fixture
def size(*, full: bool) -> Size:
    """How much happens in a row of durable delivery."""
    return FULL if full else SHORT


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print the rows, and write the report of a full run when each row has passed."""
    progress = config.stash.get(PROGRESS, None)
    rows = rows_of(terminalreporter.stats.get("passed", []))
    skipped = {
        f"{report.nodeid.rpartition('::')[2]}: {report.longrepr[2].removeprefix('Skipped: ')}"
        for report in terminalreporter.stats.get("skipped", [])
        if "tests/faults" in report.nodeid or MARK in report.keywords
    }
    if rows or progress:
        terminalreporter.section("fault matrix")
    for name, load, result in sorted(rows, key=_order):
        terminalreporter.write_line(f"{name:5} {load}: {result}")
    for line in sorted(skipped):
        terminalreporter.write_line(line)
    if progress is None:
        return
    absent = sorted(_CRITERIA.keys() - {row.name for row in progress.rows})
    if absent or exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        said = f"no row yet of {', '.join(absent)}" if absent else "not all has passed"
        terminalreporter.write_line(f"{_REPORT.name} is left as it was: {said}")
    else:
        _REPORT.write_text(_report(progress, sorted(skipped)), encoding="utf-8")
        terminalreporter.write_line(f"written to {_REPORT.name}")


def _order(row: Row) -> tuple[str, int, str]:
    name = row.name
    digits = "".join(filter(str.isdigit, name)) or "0"
    return name.rstrip("0123456789'"), int(digits), row.load


def _report(progress: Progress, skipped: list[str]) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    again = sorted(progress.failed)
    lines = [
        "# The fault matrix, as it ran",
        "",
        f"Written by `make faults` on {dt.datetime.now(tz=dt.UTC).date()},",
        f"Python {platform.python_version()}, {versions}.",
        "Every row was checked by an assertion; a failed row would have left this page as it was.",
        *(f"Failed before it passed, on the same tree: `{each}`." for each in again),
        "",
        "| row | load | criterion | result |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {load} | {_CRITERIA.get(name, '')} | {result} |"
            for name, load, result in sorted(progress.rows, key=_order)
        ),
        "",
        "Not run, because something is absent here:" if skipped else "Every row ran.",
        "",
        *(f"* {line}" for line in skipped),
        "",
        *section(),
    ]
    return "\n".join(lines).rstrip() + "\n"
