"""The fixture `events` for pytest; imports wait until it is used.

The bus that it records is the fixture `event_bus` of `lifecycle.testing.pytest_plugin`.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lifecycle.bus import EventBus
    from observability.testing import EventRecorder


@pytest.fixture
def events(event_bus: "EventBus") -> "Iterator[EventRecorder]":
    """Record what happens on the bus; its methods assert what must and must not happen."""
    from observability.testing import EventRecorder  # noqa: PLC0415 -- only when used

    with EventRecorder(event_bus) as recorder:
        yield recorder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> "Generator[None, pytest.TestReport, Any]":
    """Add the recorded events to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        used = getattr(item, "funcargs", {})
        if "events" in used and "the story was:" not in report.longreprtext:
            report.sections.append(("Events", str(used["events"])))
    return report
