"""The rows of the fault matrix: noted by the tests of tests/faults, or by a mark at others.

A row is with the report of its test, so that it is there too when the test ran in another process.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, cast

import pytest

#: The mark of a test that is a row where it stands: `matrix("M5", load=…, result=…)`.
MARK: Final = "matrix"
#: What the property of a report is called.
_PROPERTY: Final = "row of the fault matrix"


class Row(NamedTuple):
    """What was seen: the id of the row, its load, its result."""

    name: str
    load: str
    result: str


def note_row(item: pytest.Item, row: Row) -> None:
    """Note a row with the report of a test."""
    item.user_properties.append((_PROPERTY, tuple(map(str, row))))  # a `StrEnum` does not travel


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """Return what the tests of these reports noted."""
    found: list[Row] = []
    for report in reports:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                found.append(Row(*cast("tuple[str, str, str]", value)))
    return found


def is_row(item: pytest.Item) -> bool:
    """Return True for a test that belongs to the matrix."""
    return item.path.parent.name == "faults" or item.get_closest_marker(MARK) is not None


def note_marked(item: pytest.Item) -> None:
    """Note the row of a marked test, which says beforehand what it sees when it passes."""
    variant = getattr(getattr(item, "callspec", None), "id", "")
    for mark in item.iter_markers(MARK):
        load = f"{variant}: {mark.kwargs['load']}" if variant else mark.kwargs["load"]
        note_row(item, Row(mark.args[0], load, mark.kwargs["result"]))
