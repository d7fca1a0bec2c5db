"""The tail of the record of units: each line once, whatever happens to the file."""

from pathlib import Path

import pytest

from lifecycle.events import PluginLoading
from lifecycle.journal import SqliteJournal
from observability.story.unit_log import rotated
from observability.story.unit_reader import UnitTail


def line(unit: int, run: int = 1) -> str:
    """Return the end of a unit as it stands in the record."""
    return f'{{"run":{run},"topic":"uow.close","at":1.0,"unit":{unit}}}\n'


def units(tail: UnitTail) -> list[int]:
    """Return the numbers of the units that are new."""
    return [fact.unit for fact in tail.read()]


def add(path: Path, text: str) -> None:
    """Append to the record."""
    with path.open("a", encoding="utf-8") as record:
        record.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the record will be."""
    return tmp_path / "bot.units.jsonl"


def test_each_line_is_told_once(path: Path) -> None:
    """A look returns what came to this run since the last one, also when there was no file."""
    with UnitTail(path, 1) as tail:
        assert units(tail) == []
        add(path, line(1) + line(2, run=2))
        assert units(tail) == [1]
        assert units(tail) == []
        add(path, line(3))
        assert units(tail) == [3]


def test_half_a_line_is_told_when_it_is_whole(path: Path) -> None:
    """A line that is being written is left for the next look; one that is no fact is skipped."""
    text = line(2)
    with UnitTail(path, 1) as tail:
        add(path, line(1) + text[:9])
        assert units(tail) == [1]
        add(path, text[9:] + '{"run":1,\n' + line(3))
        assert units(tail) == [2, 3]


def test_a_record_that_is_put_aside_is_read_to_its_end(path: Path) -> None:
    """What stands in a full record, before and after it was put aside, is not lost."""
    add(rotated(path), line(1))
    add(path, line(2))
    with UnitTail(path, 1) as tail:
        assert units(tail) == [1, 2]
        add(path, line(3))
        path.replace(rotated(path))
        assert units(tail) == [3]
        add(path, line(4))
        assert units(tail) == [4]


def test_the_journal_says_when_it_was_written(tmp_path: Path) -> None:
    """Its version changes with an event of another connection, and with nothing else."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    journal.open()
    with SqliteJournal.read(journal.path) as reader:
        version = reader.version()
        assert reader.version() == version
        journal.append(PluginLoading(plugin="db"))
        assert reader.version() != version
    journal.close(clean=True)
