"""Somebody else locks the journal's file, again and again, while the bot lives: J4."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stranger import stranger

from lifecycle import Application, Plugin, PluginContext, SqliteJournal, State, replay
from lifecycle.journal import JournalReader

Row = Callable[..., None]

#: Seconds that the loop may stand still for the journal, with room for a machine under load.
LONGEST = 0.25


class Part(Plugin):
    """A plugin with hooks."""

    name = "part"

    async def start(self, context: PluginContext) -> None:
        """Start."""

    async def stop(self, context: PluginContext) -> None:
        """Stop."""


async def longest_wait(path: Path, times: int) -> float:
    """Restart a bot while its journal is locked; return the longest turn of the event loop.

    The journal has every step in order each time the file is free, and the run has an end.
    """
    journal = SqliteJournal(path)
    app = Application([Part()], journal=journal)
    seen: list[str] = []
    app.bus.subscribe(">", lambda event: seen.append(event.topic))
    await app.start()
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    heart = asyncio.create_task(beat())
    with stranger(path) as other:
        for _ in range(times):
            other.execute("BEGIN IMMEDIATE")
            await app.restart()
            assert replay(journal.entries()) == {"part": State.STARTED}
            await asyncio.to_thread(other.execute, "ROLLBACK")
            while journal.waiting:  # noqa: ASYNC110 -- a thread writes, and tells nobody
                await asyncio.sleep(0)
            with JournalReader(path) as reader:
                assert [entry.event.topic for entry in reader.entries()] == seen
    heart.cancel()
    await app.unload()
    with JournalReader(path) as reader:
        assert reader.crash() is None
        assert [entry.event.topic for entry in reader.entries()] == seen
    return longest


async def test_a_locked_journal_holds_nobody_up(tmp_path: Path, full: bool, row: Row) -> None:
    """J4: steps go on while the file is locked, and all of them are in it afterwards, in order."""
    times = 50 if full else 5
    longest = await longest_wait(tmp_path / "journal.sqlite3", times)
    assert longest < LONGEST
    row(
        "J4",
        load=f"another process locks the journal {times} ×, a restart under each lock",
        result=f"all steps there, in order; the loop never stood still for over {longest:.3f} s",
    )


async def test_a_journal_that_waits_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same check rejects a journal that waits for its file as long as SQLite does."""
    monkeypatch.setattr("lifecycle.journal.writer.PATIENCE", 1.0)
    assert await longest_wait(tmp_path / "journal.sqlite3", 1) > LONGEST
