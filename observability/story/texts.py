"""Texts that several views share: durations, and a summary of units."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from lifecycle.errors import counted
from observability.story.unit_log import UnitFact
from observability.vocabulary import MESSAGE_ENDS, UNIT_CLOSE, UPDATE_ENDS

#: Seconds from which the wait of a unit for its connection is worth mentioning.
LONG_WAIT: Final = 0.1


def duration_text(seconds: float) -> str:
    """Return *seconds* for people: `0.3 ms`, `1.234 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:  # noqa: PLR2004 -- seconds in a minute
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def summary(recorded: Iterable[UnitFact]) -> str:
    """Return how many units ended how, and which took longest; empty if none has ended.

    Args:
        recorded: The records of the units.
    """
    closed = [fact for fact in recorded if fact.topic == UNIT_CLOSE]
    if not closed:
        return ""
    outcomes = Counter(fact.outcome.replace("_", " ") for fact in closed)
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    longest = max(closed, key=lambda fact: fact.duration)
    took = duration_text(longest.duration)
    longest_text = f"the longest, unit {longest.unit}, took {took}"
    return f"{counted(len(closed), 'unit')} of work: {counts}; {longest_text}."


def delivered(recorded: Iterable[UnitFact]) -> str:
    """Return what became of how many messages and updates; empty without the plugin `delivery`.

    Args:
        recorded: The records of the run.
    """
    ends = Counter(fact.topic for fact in recorded)
    kinds = {"message": MESSAGE_ENDS, "update": UPDATE_ENDS}
    said = {
        kind: [f"{ends[topic]} {topic.partition('.')[2]}" for topic in topics if ends[topic]]
        for kind, topics in kinds.items()
    }
    texts = [
        f"{counted(sum(ends[topic] for topic in kinds[kind]), kind)}: {', '.join(counts)}"
        for kind, counts in said.items()
        if counts
    ]
    return f"{'; '.join(texts)}." if texts else ""
