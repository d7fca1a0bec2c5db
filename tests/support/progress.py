"""How far a full run of the fault matrix has come: it takes more than an hour, and can go on.

What passed is kept in a file, for the tree, the Python and the packages that it passed with. The
next run of the same leaves it out.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from support.matrix import MARK, Row, rows_of

_ROOT: Final = Path(__file__).parents[2]
_FOLDERS: Final = ("db_manager", "lifecycle", "observability", "tests/faults", "tests/support")
#: What a row depends on besides our own files.
PACKAGES: Final = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "asyncmy", "aiogram")


def fingerprint() -> str:
    """Return a hash of our code that a row depends on, and of the versions of others'."""
    files = {file for name in _FOLDERS for file in (_ROOT / name).rglob("*.py")}
    files |= {*(_ROOT / "tests").rglob("conftest.py")}
    tests = (_ROOT / "tests").rglob("test_*.py")
    files |= {file for file in tests if f"mark.{MARK}(" in file.read_text("utf-8")}
    found = hashlib.sha256(platform.python_version().encode())
    for package in PACKAGES:
        found.update(f"{package} {version(package)}\n".encode())
    for file in sorted(files):
        found.update(f"{file.relative_to(_ROOT)}\n".encode() + file.read_bytes())
    return found.hexdigest()


class Progress:
    """What has passed and failed so far; a plugin of pytest, which hears of each test.

    Args:
        file: Where it is kept.
        tree: What it is true of; a file that is about another one is begun anew.

    Attributes:
        passed: The rows of each test that passed, by its id.
        failed: How often a test failed, by its id; also of those that passed later.
    """

    def __init__(self, file: Path, tree: str) -> None:
        self._file = file
        self._tree = tree
        kept: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if kept.get("tree") != tree:
            kept = {}
        self.passed: dict[str, list[Row]] = {
            test: [Row(*row) for row in rows] for test, rows in kept.get("passed", {}).items()
        }
        self.failed: dict[str, int] = kept.get("failed", {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what became of a test: it passed unless a later part of it fails."""
        if report.failed:
            self.passed.pop(report.nodeid, None)
            self.failed[report.nodeid] = self.failed.get(report.nodeid, 0) + 1
        elif report.when == "call" and report.passed:
            self.passed[report.nodeid] = rows_of([report])
        else:
            return
        self._write()

    @property
    def rows(self) -> list[Row]:
        """The rows of all tests that passed."""
        return [row for rows in self.passed.values() for row in rows]

    def _write(self) -> None:
        kept = {"tree": self._tree, "passed": self.passed, "failed": self.failed}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(kept), "utf-8")
        new.replace(self._file)


#: How far a full run has come; there is none in a short one.
PROGRESS: Final = pytest.StashKey[Progress]()
