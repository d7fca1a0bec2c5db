"""Folds the record into migrations: each with begin, end and outcome."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from observability.story.unit_log import UnitFact
from observability.vocabulary import MIGRATED, MIGRATING, MIGRATION_FAILED


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One revision that was applied to the tables of a plugin, from its begin to its end.

    Args:
        owner: The plugin whose tables they are.
        plugin: The plugin of the database, in whose hook it ran.
        revision: The revision.
        at: When it began, seconds since the epoch.
        duration: Seconds it took; None while it runs, and if the process died in it.
        outcome: `open` when the record does not say how it ended.
        error: The error that it failed with, in one line.
        kept: Number of its statements that stay after it failed.
        on_database: The database, when it is not the first one: ` on analytics`.
    """

    owner: str
    plugin: str
    revision: str
    at: float
    duration: float | None = None
    outcome: Literal["done", "failed", "open"] = "open"
    error: str = ""
    kept: int = 0
    on_database: str = ""


class Migrations:
    """Folds records, one at a time."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], UnitFact] = {}

    def feed(self, fact: UnitFact) -> Migration | UnitFact | None:
        """Take the next record.

        Returns:
            The migration that it ends; None at the begin of one; *fact* if it is about another
            thing.
        """
        whose = (fact.database, fact.owner)
        if fact.topic == MIGRATING:
            self._open[whose] = fact
            return None
        if fact.topic not in {MIGRATED, MIGRATION_FAILED}:
            return fact
        begin = self._open.pop(whose, fact)
        if fact.topic == MIGRATED:
            begun = fact.at - fact.duration
            return _migration(fact, begun, duration=fact.duration, outcome="done")
        took = max(fact.at - begin.at, 0)
        return _migration(fact, fact.at - took, duration=took, outcome="failed")

    def open(self) -> list[Migration]:
        """Return those that have not ended."""
        return [_migration(fact, fact.at) for fact in self._open.values()]


def _migration(
    fact: UnitFact,
    begun: float,
    *,
    duration: float | None = None,
    outcome: Literal["done", "failed", "open"] = "open",
) -> Migration:
    return Migration(
        owner=fact.owner,
        plugin=fact.plugin,
        revision=fact.revision,
        at=begun,
        duration=duration,
        outcome=outcome,
        error=fact.error,
        kept=fact.kept,
        on_database=fact.on_database,
    )


def migrations(facts: Iterable[UnitFact]) -> list[Migration]:
    """Fold the records of one run into its migrations, those without an end last."""
    fold = Migrations()
    ended = [each for each in map(fold.feed, facts) if isinstance(each, Migration)]
    return ended + fold.open()
