"""A plugin for pytest: writes how each test ended into the file that FOREIGN_RECORD names."""

import json
import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

#: What SQLAlchemy adds to the name of a class that runs on several databases.
_BACKEND = re.compile(r"_[a-z]+\+[a-z]+_[a-z0-9_]+(?=::)")

_ended: dict[str, tuple[str, str]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the worst outcome of a test's three phases, and what it raised."""
    report = yield
    name = _BACKEND.sub("", item.nodeid)
    if report.failed:
        error = call.excinfo
        raised = f"{error.typename}: {error.value}" if error is not None else str(report.longrepr)
        _ended.setdefault(name, ("failed", raised))
    elif report.skipped:
        _ended.setdefault(name, ("skipped", ""))
    elif report.when == "teardown":
        _ended.setdefault(name, ("passed", ""))
    return report


def pytest_sessionfinish() -> None:
    """Write everything down."""
    Path(os.environ["FOREIGN_RECORD"]).write_text(json.dumps(_ended))
