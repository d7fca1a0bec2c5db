"""How SQLite takes a migration: a table is altered by making it anew, with foreign keys off."""

from collections import Counter
from typing import Any

from sqlalchemy import Connection

from db_manager.dialects.migration import Migration


class SqliteMigration(Migration):
    """A migration in one transaction that has the write lock from its beginning."""

    #: Nothing must run outside of a transaction here, and the lock would be lost.
    may_leave = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._broken_before: Counter[tuple[str, str]] = Counter()

    def begin(self, connection: Connection) -> None:
        """Take the write lock before looking what is pending, and look which rows are broken."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        self._broken_before = _broken(connection)

    def end(self, connection: Connection) -> str:
        """Return which rows refer to nothing that did before, by table."""
        broken = _broken(connection) - self._broken_before
        return "; ".join(
            f"{table} refers to rows of {other} that are not there"
            for table, other in sorted(broken)
        )


def _broken(connection: Connection) -> Counter[tuple[str, str]]:
    """Return how many rows of a table refer to rows of another that are not there."""
    found = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return Counter((str(row[0]), str(row[2])) for row in found)
