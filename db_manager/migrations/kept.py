"""Counts the statements of a migration that a ROLLBACK does not take back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

#: Statements that change nothing, by their first word.
_READS: Final = frozenset({"SELECT", "PRAGMA", "SHOW", "DESCRIBE", "SET", "BEGIN"})


class Kept:
    """What a migration has changed for good so far.

    Args:
        undoes_ddl: Whether a ROLLBACK takes DDL back; else each statement stays at once.
    """

    def __init__(self, *, undoes_ddl: bool) -> None:
        self.statements = 0
        self._undoes_ddl = undoes_ddl
        self._open = 0

    @contextmanager
    def counting(self, engine: AsyncEngine) -> Iterator[None]:
        """Count what is sent on *engine* while the block lasts."""
        listeners: dict[str, Callable[..., None]] = {
            "after_cursor_execute": self._sent,
            "commit": self._committed,
        }
        for name, listener in listeners.items():
            event.listen(engine.sync_engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners.items():
                event.remove(engine.sync_engine, name, listener)

    def _sent(self, connection: Connection, _cursor: object, sql: str, *_: Any) -> None:
        if sql.split(maxsplit=1)[:1] and sql.split(maxsplit=1)[0].upper() in _READS:
            return
        autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        if autocommit or not self._undoes_ddl:
            self.statements += 1
        else:
            self._open += 1

    def _committed(self, _connection: Connection) -> None:
        self.statements += self._open
        self._open = 0
