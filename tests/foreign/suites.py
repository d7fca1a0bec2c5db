"""Runs the tests of another project twice, without us and with us, and compares."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from foreign.differences import Difference

#: Where this package and the other plugins are found.
_TESTS = Path(__file__).parents[1]

#: How each test of a suite ended: passed, skipped or failed, and what it raised.
Outcomes = dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The tests of another project.

    Args:
        name: What it is called in the report.
        checkout: Its files.
        plugin: The module that puts our parts in the place of theirs.
        arguments: More of them for its pytest.
        ours: Names of pytest plugins of ours that it must not load.
    """

    name: str
    checkout: Path
    plugin: str
    arguments: tuple[str, ...] = ()
    ours: tuple[str, ...] = ("db_manager", "db_manager_observability")

    def run(self, *, with_us: bool) -> Outcomes:
        """Run the suite in a process of its own.

        Args:
            with_us: Put our parts in the place of theirs.

        Returns:
            How each test ended.

        Raises:
            RuntimeError: It did not run at all.
        """
        command = [sys.executable, "-s", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [part for name in self.ours for part in ("-p", f"no:{name}")]
        command += ["-p", "foreign.recording", "--maxfail=0", "--timeout=60", *self.arguments]
        if with_us:
            command += ["-p", self.plugin]
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "ended.json"
            path = os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH"))))
            done = subprocess.run(
                command,
                cwd=self.checkout,
                env=os.environ | {"PYTHONPATH": path, "FOREIGN_RECORD": str(record)},
                capture_output=True,
                text=True,
                check=False,
            )
            ended = json.loads(record.read_text()) if record.exists() else {}
        if not ended:
            raise RuntimeError(f"{self.name} did not run:\n{done.stdout[-4000:]}{done.stderr}")
        return {name: (outcome, raised) for name, (outcome, raised) in ended.items()}


@dataclass(slots=True)
class Verdict:
    """What comparing says: names of tests, with the reason or with what they raised."""

    passed: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    #: Tests that do not pass without us either, or were skipped there.
    not_counted: list[str] = field(default_factory=list)


def compare(plain: Outcomes, ours: Outcomes, differences: tuple[Difference, ...]) -> Verdict:
    """Say for each test that passes without us what it does with us.

    Args:
        plain: How they ended without us.
        ours: How they ended with us.
        differences: What is different on purpose.

    Returns:
        Passed, refused on purpose, failed. A test that is listed but fails by something else than
        its difference has failed.
    """
    verdict = Verdict()
    for name, (without, _) in plain.items():
        outcome, raised = ours.get(name, ("failed", "it was not run"))
        if without != "passed" or outcome == "skipped":
            verdict.not_counted.append(name)
        elif outcome == "passed":
            verdict.passed.append(name)
        elif known := next((each for each in differences if each.explains(name, raised)), None):
            verdict.refused.setdefault(known.reason, []).append(name)
        else:
            verdict.failed[name] = raised
    return verdict


def outdated(verdicts: list[Verdict], differences: tuple[Difference, ...]) -> list[str]:
    """Return the tests that the list of differences names without need.

    Args:
        verdicts: Of all databases: a test may be different on one of them only.
        differences: The list.
    """
    refused = [name for verdict in verdicts for names in verdict.refused.values() for name in names]
    return [
        test
        for difference in differences
        for test in difference.tests
        if not any(difference.names(test, name) for name in refused)
    ]
