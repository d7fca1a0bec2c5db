"""What is wrong with a migration or a history, and the way out."""

from db_manager.errors import DbManagerError


class MigrationError(DbManagerError):
    """A history is broken, or a migration failed; the bot does not start.

    Args:
        plugin: The plugin whose tables they are.
        revision: The revision.
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
        return f"migration {self.revision} of {self.plugin!r}: {self.what}"


class BrokenRowsError(DbManagerError):
    """After a migration rows refer to others that are not there.

    Args:
        tables: Which tables.
    """

    def __init__(self, tables: str) -> None:
        self.tables = tables
        super().__init__(tables)

    def __str__(self) -> str:
        return self.tables


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
