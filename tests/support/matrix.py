"""The rows of the fault matrix: noted by the tests of tests/faults, or by a mark at others."""

from typing import Final

import pytest

#: What was seen: the id of the row, its load, its result.
ROWS: Final = pytest.StashKey[list[tuple[str, str, str]]]()
#: The mark of a test that is a row where it stands: `matrix("M5", load=…, result=…)`.
MARK: Final = "matrix"


def rows_of(config: pytest.Config) -> list[tuple[str, str, str]]:
    """Return what was noted so far."""
    return config.stash.setdefault(ROWS, [])


def is_row(item: pytest.Item) -> bool:
    """Return True for a test that belongs to the matrix."""
    return item.path.parent.name == "faults" or item.get_closest_marker(MARK) is not None


def note_marked(item: pytest.Item) -> None:
    """Note the row of a marked test that has passed."""
    variant = getattr(getattr(item, "callspec", None), "id", "")
    for mark in item.iter_markers(MARK):
        load = f"{variant}: {mark.kwargs['load']}" if variant else mark.kwargs["load"]
        rows_of(item.config).append((mark.args[0], load, mark.kwargs["result"]))
