"""How SQLite takes a migration: a table is altered by making it anew, with foreign keys off."""

from collections import Counter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from db_manager.dialects.migration import Migration


class SqliteMigration(Migration):
    """A migration in one transaction that has the write lock from its beginning."""

    #: Nothing must run outside of a transaction here, and the lock would be lost.
    may_leave = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._broken_before: Counter[str] = Counter()

    def begin(self, connection: Connection) -> None:
        """Take the write lock before looking what is pending, and look which rows are broken."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        self._broken_before = _broken(connection)

    def end(self, connection: Connection) -> str:
        """Return which rows refer to nothing that did before, by table."""
        return "; ".join(sorted(_broken(connection) - self._broken_before))


def _broken(connection: Connection) -> Counter[str]:
    """Return what is wrong with foreign keys: how many rows, of what they have in common."""
    try:
        with connection.begin_nested():  # a statement that fails would end the transaction
            found = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    except OperationalError:
        return Counter({"a foreign key refers to columns that are not unique": 1})
    return Counter(f"{row[0]} refers to rows of {row[2]} that are not there" for row in found)
