"""What `db-manager delivery` says: counts, processes, and lists of what was given up."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from db_manager.delivery.table.claims import DEAD, UNKNOWN
from db_manager.undelivered.sent_to_many import broadcast_lines
from db_manager.undelivered.standing import Standing
from lifecycle.errors import counted

#: Seconds of the units in which an age is told, and the unit below which it is told in.
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))
#: What an error quotes may be a user's words.
_QUOTED: Final = re.compile(r"\".*\"|(?<!\w)'.*'")
_STATES: Final = {DEAD: "dead", UNKNOWN: "unknown"}
_HINT: Final = "`db-manager delivery retry ID` opens one again, `drop ID` forgets it."
_LEFT: Final = 10  # width of the column with what a line is about


def lines(found: Standing, *, lease: float, rate: float, payloads: bool) -> list[str]:
    """Return what is told of *found*.

    Args:
        found: What is in the tables.
        lease: Seconds without a sign of life after which a process is taken for dead.
        rate: Messages of broadcasts in a second.
        payloads: Show what users and the bot have written, too.
    """
    said = [_about("messages", _messages(found)), _about("updates", _updates(found))]
    what = "broadcasts"
    for line in broadcast_lines(found.broadcasts, rate):
        said.append(f"{what:<{_LEFT}} {line}")
        what = ""
    said += _members(found, lease)
    said += _dead(found, payloads=payloads)
    said += _parked(found, payloads=payloads)
    if found.is_worth_a_look:
        said += ["", _HINT]
    return said


def age_text(seconds: float) -> str:
    """Return *seconds* for people: `0.4 s`, `42 s`, `5 min`, `3.2 h`, `2.0 d`."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{max(seconds, 0):.1f} s"


def _about(what: str, said: list[str]) -> str:
    return f"{what:<{_LEFT}} {'; '.join(said) or 'none waits, and none was given up'}"


def _messages(found: Standing) -> list[str]:
    said = []
    if found.due:
        said.append(f"{found.due} due, the oldest for {age_text(found.oldest)}")
    if found.scheduled:
        said.append(f"{found.scheduled} scheduled, the next in {age_text(found.next)}")
    over = {"dead": found.dead, "unknown": found.unknown, "expired": found.expired}
    said += [f"{count} {state}" for state, count in over.items() if count]
    return said


def _updates(found: Standing) -> list[str]:
    said = []
    if found.waiting:
        said.append(f"{found.waiting} open, the oldest for {age_text(found.oldest_update)}")
    if found.parked:
        said.append(f"{found.parked} parked")
    return said


def _members(found: Standing, lease: float) -> Iterator[str]:
    if found.members is None:  # a SQLite file has one process, and no table for it
        return
    what = "processes"
    for row in found.members:
        seen = age_text(row.silent)
        lives = f"alive, seen {seen} ago" if row.silent <= lease else f"silent for {seen}: dead?"
        has = f"{counted(row.messages, 'message')}, {counted(row.updates, 'update')}"
        yield f"{what:<{_LEFT}} {row.name}: {lives}; has {has}"
        what = ""
    if not any(row.silent <= lease for row in found.members):
        yield f"{what:<{_LEFT}} none is alive: what is open waits until the bot runs"


def _dead(found: Standing, *, payloads: bool) -> Iterator[str]:
    rows = [
        (
            (
                f"m{row.id}",
                row.bot_id or "broker",
                row.lane,
                row.method,
                _STATES[row.state],
                row.attempts,
            ),
            row,
        )
        for row in found.messages
    ]
    head = ("id", "bot", "lane", "method", "state", "attempts")
    number = found.dead + found.unknown
    yield from _table("dead and unknown messages", head, rows, number, payloads=payloads)


def _parked(found: Standing, *, payloads: bool) -> Iterator[str]:
    numbers = Counter(row.update_id for row in found.updates)
    rows = [
        (
            (
                f"u{row.update_id}{f'@{row.bot_id}' if numbers[row.update_id] > 1 else ''}",
                *(row.bot_id, row.lane, row.attempts, row.deaths),
            ),
            row,
        )
        for row in found.updates
    ]
    head = ("id", "bot", "lane", "attempts", "deaths")
    yield from _table("parked updates", head, rows, found.parked, payloads=payloads)


def _table(
    title: str,
    head: Sequence[str],
    rows: Sequence[tuple[Sequence[Any], Any]],
    number: int,
    *,
    payloads: bool,
) -> Iterator[str]:
    """Yield the lines of a list, the newest first.

    Args:
        title: What is listed.
        head: Names of its columns, before those that both lists have.
        rows: What stands in them, each with the row of the table.
        number: How many there are, also those that are not in *rows*.
        payloads: As of `lines`.
    """
    if not number:
        return
    yield from ("", title)
    cells = [(*head, "age", "error")]
    for own, row in rows:
        error = row.error or ""
        cells.append(
            (*map(str, own), age_text(row.age), error if payloads else _QUOTED.sub("…", error))
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    written = [None, *(row.payload for _, row in rows)]
    for line, payload in zip(cells, written, strict=True):
        wide = (f"{each:<{width}}" for each, width in zip(line, widths, strict=True))
        yield f"  {'  '.join(wide)}".rstrip()
        if payloads and payload is not None:
            yield f"    {payload}"
    if number > len(rows):
        yield f"  and {number - len(rows)} older; --limit {number} shows them"
