"""Every event of a migration."""

from typing import ClassVar

from db_manager.events.of_the_database import DatabaseEvent
from lifecycle.event import Level


class MigrationEvent(DatabaseEvent, kw_only=True):
    """Base of the events about the migrations of one plugin.

    Args:
        plugin: The plugin whose tables they are.
    """

    labels: ClassVar[tuple[str, ...]] = ("database", "plugin")

    plugin: str


class Migrating(MigrationEvent, kw_only=True):
    """A migration begins; the lock is held.

    Args:
        previous: The revision that the database is at; empty when it has none.
        revision: The revision that is applied.
    """

    topic: ClassVar[str] = "database.migrating"

    previous: str
    revision: str


class Migrated(MigrationEvent, kw_only=True):
    """A migration was applied and committed, by this process.

    Args:
        revision: The revision that the database is at now.
        duration: Seconds it took.
    """

    topic: ClassVar[str] = "database.migrated"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    revision: str
    duration: float


class MigrationFailed(MigrationEvent, kw_only=True):
    """A migration failed; the bot does not start.

    Args:
        revision: The revision that was not applied.
        error: What went wrong.
        kept: Number of its statements that stay: they committed by themselves.
    """

    topic: ClassVar[str] = "database.migration_failed"
    level: ClassVar[Level] = "error"

    revision: str
    error: str
    kept: int
