"""The record of units when its file makes trouble."""

from pathlib import Path

import pytest

from observability.story.unit_log import rotated
from observability.story.unit_writer import _Rotating


def test_a_record_that_could_not_be_put_aside_goes_on(tmp_path: Path) -> None:
    """While a full record cannot be put aside lines are lost; when it can, they are kept again."""
    path = tmp_path / "bot.units.jsonl"
    record = _Rotating(path, max_bytes=10)
    record.write("more than ten bytes\n")
    rotated(path).mkdir()
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            record.write("lost\n")
    rotated(path).rmdir()
    record.write("kept\n")
    record.close()
    assert rotated(path).read_text() == "more than ten bytes\n"
    assert path.read_text() == "kept\n"
