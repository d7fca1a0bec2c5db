"""A full run of the fault matrix takes more than an hour: what passed is not run again."""

from pathlib import Path
from typing import Literal

import pytest
from support.matrix import Row, note_row
from support.progress import PROGRESS, Progress, fingerprint

ROW = Row("O1", "a load", "a result")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where it is kept."""
    return tmp_path / "faults.json"


def report(
    outcome: Literal["passed", "failed"], when: Literal["call", "teardown"] = "call"
) -> pytest.TestReport:
    """Return the report of a part of a test that notes a row."""
    noted: list[tuple[str, object]] = []

    class Noting:
        user_properties = noted

    note_row(Noting(), ROW)  # type: ignore[arg-type]  # as much of an item as is looked at
    return pytest.TestReport(
        "a test", ("a file", 1, "a test"), {}, outcome, None, when, user_properties=noted
    )


def test_the_rows_of_a_test_that_passed_are_there_in_the_next_run(file: Path) -> None:
    """They are read from the file, whatever became of the run that wrote it."""
    Progress(file, "tree").pytest_runtest_logreport(report("passed"))
    kept = Progress(file, "tree")
    assert (kept.rows, kept.failed) == ([ROW], {})


def test_a_test_whose_teardown_failed_has_not_passed(file: Path) -> None:
    """It is run again, and the page will say that it failed."""
    progress = Progress(file, "tree")
    progress.pytest_runtest_logreport(report("passed"))
    progress.pytest_runtest_logreport(report("failed", "teardown"))
    kept = Progress(file, "tree")
    assert (kept.passed, kept.failed) == ({}, {"a test": 1})


def test_a_failure_is_remembered_when_the_test_passes_later(file: Path) -> None:
    """The next run of the same tree knows both."""
    Progress(file, "tree").pytest_runtest_logreport(report("failed"))
    Progress(file, "tree").pytest_runtest_logreport(report("passed"))
    kept = Progress(file, "tree")
    assert (kept.rows, kept.failed) == ([ROW], {"a test": 1})


def test_another_tree_begins_anew(file: Path) -> None:
    """What passed with other code, or other packages, says nothing."""
    Progress(file, "tree").pytest_runtest_logreport(report("passed"))
    assert Progress(file, "another").passed == {}


@pytest.mark.parametrize("name", ["db_manager/unit.py", "tests/conftest.py"])
def test_the_tree_is_the_same_until_a_file_of_it_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Code of the product is a part of it, and so are fixtures."""
    monkeypatch.setattr("support.progress._ROOT", tmp_path)
    code = tmp_path / name
    code.parent.mkdir()
    code.write_text("a = 1\n")
    before = fingerprint()
    assert fingerprint() == before
    code.write_text("a = 2\n")
    assert fingerprint() != before


def test_a_short_run_keeps_nothing(pytestconfig: pytest.Config) -> None:
    """Only `--faults=full` goes on where it was."""
    assert (PROGRESS in pytestconfig.stash) == (pytestconfig.getoption("--faults") == "full")
