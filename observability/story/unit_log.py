"""The record of units, a file beside the journal: its path and its lines."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from lifecycle.correlation import Correlation
from lifecycle.event import Event
from lifecycle.journal import encode_event
from observability.vocabulary import (
    BEHIND,
    CAUGHT_UP,
    DRIFTED,
    MESSAGE_ENDS,
    MESSAGE_RETRIED,
    MESSAGE_SENT,
    MIGRATIONS,
    POOL_EXHAUSTED,
    REPLICA_LOST,
    REPLICA_RECOVERED,
    UNIT_CLOSE,
    UNIT_LEAVE,
    UNIT_RETRY,
    UNIT_SLOW,
    UNSAFE,
    UPDATE_DONE,
    UPDATE_ENDS,
    UPDATE_RETRIED,
)

_OF_DELIVERY: Final = (
    *(*MESSAGE_ENDS, MESSAGE_RETRIED, *UPDATE_ENDS, UPDATE_RETRIED),
    *(BEHIND, CAUGHT_UP, UNSAFE),
)
#: Topics that are recorded: the end of each unit, what happened in it before, to replicas, and to
#: the tables at a start; and of the plugin `delivery`: the end of each message and update.
TOPICS: Final = (
    *(UNIT_CLOSE, UNIT_LEAVE, UNIT_RETRY, UNIT_SLOW),
    *(POOL_EXHAUSTED, REPLICA_LOST, REPLICA_RECOVERED),
    *MIGRATIONS,
    DRIFTED,
    *_OF_DELIVERY,
)
#: The ends of messages and updates that went well; `wait` is what they took.
DELIVERED: Final = (MESSAGE_SENT, UPDATE_DONE)
#: Topic of a line that reports how many lines could not be written.
RECORD_LOST: Final = "record.lost"


class UnitFact(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the record; fields that its event does not have are empty.

    Args:
        run: Number of the run.
        topic: Topic of the event.
        at: When it happened, seconds since the epoch.
        unit: Number of the unit; 0 if the event belongs to none.
        database: Name of the database; empty for the first one.
        inner: Number of the unit that was a part of it, when that is what the event is about.
        outcome: `committed`, `rolled_back` or `outcome_unknown`; of a part also `joined`, `failed`.
        error: The error that ended it, in one line.
        duration: Seconds since it began, also of a migration.
        statements: Number of its statements.
        database_time: Seconds spent waiting for them.
        waited: Seconds spent waiting for a connection.
        attempt: Number of the attempt.
        size: Size of the pool that was exhausted.
        holders: Who held its connections, one line each, the longest first.
        reason: Why the replica is not used.
        owner: The plugin whose tables were migrated; `plugin` in the file.
        revision: The revision that is applied to them.
        kept: Number of its statements that stay after it failed.
        differences: How the tables differ from the models, one line each.
        message: Number of the message in the outbox; 0 if the event is about none.
        update_id: Telegram's number of the update that was received; 0 if it is about none.
        bot_id: The bot of either.
        method: Name of the message's method of the Bot API.
        attempts: How often it was sent, or tried.
        wait: Seconds since it was due, or stored; of a retried one until the next time.
        messages: Number of messages that wait.
        updates: Number of updates that do.
        oldest: Seconds that the oldest of both has waited.
        settings: Settings of the server with which it may lose commits.
        lines: Number of lines that could not be written.
        correlation: Whose work it was: update, handler, plugin.
    """

    run: int
    topic: str
    at: float
    unit: int = 0
    database: str = ""
    inner: int = 0
    outcome: str = ""
    error: str = ""
    duration: float = 0.0
    statements: int = 0
    database_time: float = 0.0
    waited: float = 0.0
    attempt: int = 1
    size: int = 0
    holders: tuple[str, ...] = ()
    reason: str = ""
    owner: str = msgspec.field(name="plugin", default="")
    revision: str = ""
    kept: int = 0
    differences: tuple[str, ...] = ()
    message: int = 0
    update_id: int = 0
    bot_id: int = 0
    method: str = ""
    attempts: int = 0
    wait: float = 0.0
    messages: int = 0
    updates: int = 0
    oldest: float = 0.0
    settings: tuple[str, ...] = ()
    lines: int = 0
    correlation: Correlation = Correlation()

    @property
    def plugin(self) -> str:
        """The plugin whose handler or hook it was; empty outside of plugins."""
        return self.correlation.plugin or ""

    @property
    def is_of_delivery(self) -> bool:
        """True if it is about messages or updates."""
        return self.topic in _OF_DELIVERY

    @property
    def name(self) -> str:
        """What it is about: `unit 7`, `unit 8 in 7` for a part of it, `message 5`, `update 9`."""
        if self.message or self.update_id:
            return f"message {self.message}" if self.message else f"update {self.update_id}"
        part = f"{self.inner} in " if self.inner else ""
        return f"unit {part}{self.unit}{self.on_database}"

    @property
    def took(self) -> float:
        """Seconds it took, as far as that is known."""
        return self.wait if self.topic in DELIVERED else self.duration

    @property
    def on_database(self) -> str:
        """The database, when it is not the first one: ` on analytics`."""
        return f" on {self.database}" if self.database else ""

    @property
    def where(self) -> list[str]:
        """The update and its handler, as far as they are known."""
        known = self.correlation
        update = f"update {known.update_id}" if known.update_id is not None else ""
        return [each for each in (update, known.handler) if each]


def unit_fact(event: Event, run: int) -> UnitFact:
    """Return the record of *event*, whose topic is one of `TOPICS`.

    Args:
        event: The event.
        run: Number of the run.
    """
    return _decode(unit_line(event, run))


def unit_line(event: Event, run: int) -> str:
    """Return the record of *event* as a line of the file."""
    # Without as_dict(), which would be four times as expensive.
    return f'{{"run":{run},"topic":"{event.topic}",{encode_event(event)[1:]}'


_decode: Final = msgspec.json.Decoder(UnitFact).decode


def units_path(journal: Path) -> Path:
    """Return the path of the record that belongs to a journal: `lifecycle.units.jsonl`."""
    return journal.with_suffix(".units.jsonl")


def rotated(path: Path) -> Path:
    """Return the path that a full record is renamed to."""
    return path.with_name(f"{path.name}.1")


def facts(lines: Iterable[bytes], run: int) -> Iterator[UnitFact]:
    """Decode the lines that are about the units of a run.

    Args:
        lines: The lines.
        run: Number of the run.
    """
    for line in lines:
        try:
            fact = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # the process died while it was writing the line
        if fact.run == run:
            yield fact
