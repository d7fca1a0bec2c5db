"""What `make foreign` says about the tests of others is judged by rules that can fail."""

from pathlib import Path

import pytest
from foreign.differences import AIOGRAM, SQLALCHEMY, Difference
from foreign.suites import Outcomes, Suite, Verdict, compare, outdated

UNITS = Path(__file__).parents[1] / "docs" / "units.md"

RULE = Difference("the unit commits", r"is not allowed in the block", ("SessionTest.test_commit",))
COMMIT = "test_session.py::SessionTest::test_commit[a-1]"
REFUSED = ("failed", "UnitOfWorkStateError: session.commit() is not allowed in the block")
PASSED = ("passed", "")


def judge(plain: tuple[str, str], ours: tuple[str, str] | None) -> Verdict:
    """Compare one test, without us and with us."""
    return compare({COMMIT: plain}, {COMMIT: ours} if ours else {}, (RULE,))


def test_a_listed_test_that_fails_by_its_rule_is_refused_on_purpose() -> None:
    """The reason of the list stands beside the test."""
    assert judge(PASSED, REFUSED).refused == {RULE.reason: [COMMIT]}


@pytest.mark.parametrize("raised", ["KeyError: 1", "AssertionError: 1 != 2"])
def test_a_listed_test_that_fails_by_something_else_has_failed(raised: str) -> None:
    """A list of names hides no defect."""
    assert judge(PASSED, ("failed", raised)).failed == {COMMIT: raised}


def test_a_test_that_was_not_run_with_us_has_failed() -> None:
    """A suite that dies half way is not a success."""
    assert judge(PASSED, None).failed


def test_what_does_not_pass_without_us_is_not_counted() -> None:
    """A checkout that is not complete says nothing about us."""
    assert judge(("failed", "RuntimeError: no locales"), REFUSED).not_counted == [COMMIT]


def test_a_listed_test_that_passes_is_listed_without_need() -> None:
    """The list shrinks when the difference is gone; on one database of two is enough to stay."""
    passed, refused = judge(PASSED, PASSED), judge(PASSED, REFUSED)
    assert passed.passed == [COMMIT]
    assert outdated([passed], (RULE,)) == ["SessionTest.test_commit"]
    assert outdated([passed, refused], (RULE,)) == []


def test_names_with_parameters_name_some_and_others_all() -> None:
    """`test_commit` is no `test_commit_twice`, and `test_x[a` is no `test_x[b-1]`."""
    assert Difference.names("T.test_commit", "t.py::T::test_commit[x]")
    assert not Difference.names("T.test_commit", "t.py::T::test_commit_twice")
    assert Difference.names("T.test_x[a", "t.py::T::test_x[a-1]")
    assert not Difference.names("T.test_x[a", "t.py::T::test_x[b-1]")


def test_a_suite_is_run_twice_and_its_failures_come_back(tmp_path: Path) -> None:
    """The plugin of ours is there in the second run only, and each test ends once."""
    (tmp_path / "test_theirs.py").write_text(
        "import os, pytest\n"
        "def test_well(): pass\n"
        "def test_skipped(): pytest.skip('no')\n"
        "def test_plain(): assert 'ours' not in os.environ, 'theirs only'\n"
    )
    (tmp_path / "ours.py").write_text("import os\nos.environ['ours'] = 'here'\n")
    suite = Suite(name="theirs", checkout=tmp_path, plugin="ours")
    plain: Outcomes = suite.run(with_us=False)
    verdict = compare(plain, suite.run(with_us=True), ())
    assert verdict.passed == ["test_theirs.py::test_well"]
    assert verdict.not_counted == ["test_theirs.py::test_skipped"]
    assert "theirs only" in verdict.failed["test_theirs.py::test_plain"]


def test_a_suite_that_cannot_run_says_why(tmp_path: Path) -> None:
    """No outcome at all is an error with what pytest said, not zero failures."""
    suite = Suite(name="nothing", checkout=tmp_path, plugin="ours", arguments=("absent",))
    with pytest.raises(RuntimeError, match="absent"):
        suite.run(with_us=False)


def test_every_reason_stands_in_the_docs() -> None:
    """Each difference on purpose is a row of docs/units.md, and no test is listed twice."""
    text = UNITS.read_text()
    for difference in (*SQLALCHEMY, *AIOGRAM):
        assert difference.reason in text
        assert len(set(difference.tests)) == len(difference.tests)
