"""What every journal promises: one contract, run against memory and SQLite."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle.correlation import correlate
from lifecycle.errors import JournalError
from lifecycle.event import Event
from lifecycle.events import (
    AppStarted,
    AppStopping,
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    ServiceProvided,
)
from lifecycle.journal import Journal, JournalEntry, MemoryJournal, SqliteJournal

HISTORY: tuple[Event, ...] = (
    PluginLoading(plugin="db"),
    PluginLoaded(plugin="db", duration=0.25),
    ServiceProvided(plugin="db", service="db:engine"),
    PluginFailed(
        plugin="notes", hook="start", error="ÄÖ \x00 \n 😀", cleanup_errors=("a", "b"), duration=1
    ),
    AppStarted(plugins=("db",), duration=0.5),
    AppStopping(),
)


def _memory(_: Path) -> Journal:
    return MemoryJournal()


def _sqlite(folder: Path) -> Journal:
    return SqliteJournal(folder / "journal.sqlite3")


@pytest.fixture(params=[_memory, _sqlite], ids=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    """Return a new journal of each kind."""
    make: Callable[[Path], Journal] = request.param
    return make(tmp_path)


def test_empty_journal_has_no_history(journal: Journal) -> None:
    """Before the first run there is nothing to read, and nothing crashed."""
    assert list(journal.entries()) == []
    assert journal.run == 0
    assert journal.open() is None
    assert journal.run == 1
    assert list(journal.entries()) == list(journal.entries(7)) == []
    journal.close(clean=True)


def test_entries_are_what_was_appended(journal: Journal) -> None:
    """Events come back equal, with their correlation, numbered from 1 without a gap."""
    journal.open()
    with correlate(update_id=7, update_type="message", plugin="notes", unit=3):
        history = (*HISTORY, AppStopping())
    appended = [journal.append(event) for event in history]
    expected = [
        JournalEntry(seq=seq, run=1, event=event) for seq, event in enumerate(history, start=1)
    ]
    assert appended == expected
    assert list(journal.entries()) == expected
    journal.close(clean=True)
    assert list(journal.entries(1)) == expected


def test_each_run_counts_from_one(journal: Journal) -> None:
    """Runs are kept apart, and all of them are read in order."""
    for run in (1, 2, 3):
        assert journal.open() is None
        assert journal.run == run
        journal.append(AppStopping())
        journal.append(AppStopping())
        journal.close(clean=True)
    assert [(e.run, e.seq) for e in journal.entries()] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 1),
        (3, 2),
    ]
    assert [(e.run, e.seq) for e in journal.entries(2)] == [(2, 1), (2, 2)]


def test_run_without_an_end_is_reported_by_the_next(journal: Journal) -> None:
    """The next open says which run died and what its last event was; once."""
    journal.open()
    journal.append(PluginLoading(plugin="db", at=5.5))
    journal.close(clean=False)
    crash = journal.open()
    assert crash is not None
    assert (crash.run, crash.last_topic, crash.last_plugin) == (1, "plugin.loading", "db")
    assert (crash.last_seq, crash.last_at) == (1, 5.5)
    journal.close(clean=True)
    assert journal.open() is None
    journal.close(clean=False)
    empty = journal.open()
    assert empty is not None
    assert (empty.run, empty.last_topic, empty.last_seq) == (3, "", 0)
    journal.close(clean=True)


def test_closed_journal_takes_nothing(journal: Journal) -> None:
    """Append needs an open run; closing twice does nothing."""
    with pytest.raises(JournalError, match=r"app\.stopping cannot be kept"):
        journal.append(AppStopping())
    journal.open()
    journal.close(clean=True)
    journal.close(clean=False)
    with pytest.raises(JournalError, match="not open"):
        journal.append(AppStopping())
    assert journal.open() is None
    journal.close(clean=True)


def test_journal_opens_once(journal: Journal) -> None:
    """A second open of an open journal is refused, and the run goes on."""
    journal.open()
    with pytest.raises(JournalError, match="open already"):
        journal.open()
    assert journal.append(AppStopping()).seq == 1
    journal.close(clean=True)
    assert "run=1" in repr(journal)


def test_reading_sees_what_was_there_when_it_began(journal: Journal) -> None:
    """Appending while reading neither breaks the reader nor is seen by it in this run."""
    journal.open()
    journal.append(AppStopping())
    for entry in journal.entries():
        journal.append(entry.event)
    assert [entry.seq for entry in journal.entries()] == [1, 2]
    journal.close(clean=True)
