"""What is wrong with a migration or a history, and the way out."""

from db_manager.dialects.migration import HalfWay
from db_manager.errors import DbManagerError


class MigrationError(DbManagerError):
    """A history is broken, or a migration failed; the bot does not start.

    Args:
        plugin: The plugin whose tables they are.
        revision: The revision; empty when it is about the whole history.
        what: What is wrong, and what to do.
        kept: Number of the statements of the revision that stay, because they committed.
    """

    def __init__(self, plugin: str, revision: str, what: str, kept: int = 0) -> None:
        self.plugin = plugin
        self.revision = revision
        self.what = what
        self.kept = kept
        super().__init__(plugin, revision, what, kept)

    def __str__(self) -> str:
        which = f"migration {self.revision}" if self.revision else "the migrations"
        return f"{which} of {self.plugin!r}: {self.what}"


class HalfWayError(MigrationError):
    """A migration began and did not end, and a transaction did not take it back.

    Args:
        plugin: The plugin whose tables they are.
        revision: The revision.
        found: What is known of it.
    """

    def __init__(self, plugin: str, revision: str, found: HalfWay) -> None:
        works = "and did not end"
        if found.connection:
            works = (
                f"and connection {found.connection} of the server still works on it; when that has "
                f"ended"
            )
        way = ways_out(plugin, found.before, found.after)
        super().__init__(plugin, revision, f"it began at {found.since} {works}: {way}")
        self.found = found
        self.args = (plugin, revision, found)


def ways_out(plugin: str, before: str, after: str) -> str:
    """Return what to do about a migration of which only some statements stay.

    Args:
        plugin: The plugin whose tables they are.
        before: What the database was at; empty when it had no revision.
        after: What it was to be at.
    """
    stamp = f"db-manager migrate stamp {plugin}"
    return (
        f"finish it by hand and say so with `{stamp} {after or 'base'}`, or undo its statements "
        f"and say `{stamp} {before or 'base'}`"
    )


class MigrationsPendingError(DbManagerError):
    """Migrations are pending, and `[database] migrate = "check"` leaves them to somebody else.

    Args:
        pending: The revisions, by plugin.
    """

    def __init__(self, pending: dict[str, tuple[str, ...]]) -> None:
        self.pending = pending
        super().__init__(pending)

    def __str__(self) -> str:
        said = "; ".join(f"{plugin}: {', '.join(ids)}" for plugin, ids in self.pending.items())
        return f"migrations are pending ({said}): run `db-manager migrate upgrade` first"


class MigrationsNotInstalledError(DbManagerError):
    """There is something to migrate, and Alembic is not installed."""

    def __str__(self) -> str:
        return "migrations need Alembic: pip install 'db-manager[migrate]'"


class ScratchError(DbManagerError):
    """There is no database to build migrations in, or something was left of it."""
