"""Counts and times the statements of units, around the call of the driver."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.open_unit import OpenUnit
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.safe_text import statement_text
from db_manager.events import UnitStatement
from lifecycle.bus import Channel
from lifecycle.error_text import tell

#: SQLAlchemy's three calls of the driver: events of its dialect, and methods of the same name.
CALLS: Final = ("do_execute", "do_execute_no_params", "do_executemany")


class Statements:
    """Counts statements for their units, and publishes them if `database.statement` is subscribed.

    SQLAlchemy's cursor events would make a one-statement unit 20 % slower, because they switch on
    everything that engine events need. Around the calls of the driver, which are methods of its
    dialect, it is 1 % (docs/performance.md). A listener of SQLAlchemy's that executes a statement
    in its own way, without these methods, is not counted.

    Args:
        engine: The engine whose statements are counted first.
        dialect: What its database and driver are like.
        units: The unit of each checked-out connection.
        answered: The channel of `database.statement`.
        database: What events call the database.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        dialect: Dialect,
        units: Mapping[Connection, OpenUnit],
        answered: Channel,
        database: str = "",
    ) -> None:
        self._url = engine.url
        self._system = engine.dialect.name
        self._dialect = dialect
        self._units = units
        self._answered = answered
        self._database = database

    def count(self, engine: AsyncEngine) -> None:
        """Count the statements of *engine* from now on."""
        dialect = engine.sync_engine.dialect
        for name in CALLS:
            setattr(dialect, name, self._counting(getattr(dialect, name)))

    def _counting(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return *call*, one of the calls of the driver, which then also counts and times itself.

        Args:
            call: Sends a statement and waits for the answer. Errors are reported with `fail`.
        """

        def counting(cursor: Any, sql: str, *rest: Any) -> None:
            root: Any = getattr(rest[-1], "root_connection", None)  # of the execution context
            unit = self._units.get(root)
            if unit is None:
                call(cursor, sql, *rest)
                return
            unit.statement = sql
            unit.sent_at = time.perf_counter()
            call(cursor, sql, *rest)
            duration = time.perf_counter() - unit.sent_at
            unit.statements += 1
            unit.database_time += duration
            if self._answered.handlers:
                self._report(unit, sql, duration)

        return counting

    def fail(self, unit: OpenUnit, sql: str, error: BaseException) -> None:
        """Report that the last statement of *unit* failed, or was not answered.

        Args:
            unit: The unit.
            sql: The statement.
            error: Its error.
        """
        if self._answered.handlers and unit.sent_at:
            self._report(unit, sql, time.perf_counter() - unit.sent_at, tell(error))

    def _report(self, unit: OpenUnit, sql: str, duration: float, error: str = "") -> None:
        words = sql.split(None, 1)
        self._answered.publish(
            UnitStatement(
                unit=unit.number,
                database=self._database,
                operation=words[0].strip("(;").upper()[:20] if words else "",
                # A long statement of SQLAlchemy is a str subclass, which str() shortens.
                statement=statement_text(str(sql), self._dialect),
                system=self._system,
                namespace=self._url.database or "",
                server=self._url.host or "",
                port=self._url.port,
                duration=duration,
                error=error,
            )
        )


def no_answer(statement: str | None) -> OperationalError:
    """Return the error of a statement that the driver gave up."""
    reason = TimeoutError("no answer from the server in time: the connection is closed")
    return OperationalError(
        statement, None, reason, hide_parameters=True, connection_invalidated=True
    )
