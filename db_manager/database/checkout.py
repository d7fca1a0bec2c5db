"""Connections for units: checkout and return, engines for reading, SQLite's one writer."""

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util.queue import Empty

from db_manager.database.leftovers import Leftovers
from db_manager.database.open_unit import OpenUnit
from db_manager.database.open_units import OpenUnits
from db_manager.database.replica import Replica
from db_manager.dialects import classify
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.safe_text import connection_text
from db_manager.engine.one_writer import OneWriter
from db_manager.errors import (
    DatabaseUnavailableError,
    PoolExhaustedError,
    UnitOfWorkStateError,
)
from db_manager.events import PoolExhausted
from lifecycle.bus import EventBus


class Checkout:
    """Checks connections out for the units of one engine, and takes them back.

    Args:
        engine: The engine of the units.
        dialect: The dialect of its database.
        units: The open units.
        make_reader: Builds the engine for read-only units; called for the first such unit.
        on_reader: Called with that engine.
        replica: The read replica; None if there is none.
        pool_timeout: Longest wait for SQLite's one writer, in seconds.
        bus: Where an exhausted pool is published.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        dialect: Dialect,
        units: OpenUnits,
        *,
        make_reader: Callable[[], AsyncEngine] | None,
        on_reader: Callable[[AsyncEngine], None],
        replica: Replica | None,
        pool_timeout: float,
        bus: EventBus,
    ) -> None:
        self._engine = engine
        self._dialect = dialect
        self._units = units
        self._make_reader = make_reader
        self._on_reader = on_reader
        self.replica = replica
        self._pool_timeout = pool_timeout
        self._bus = bus
        #: The engine for read-only units, once built.
        self.reader: AsyncEngine | None = None
        #: Whether connections to the replica refuse writes by themselves, as the reader's do.
        self._replica_refuses = replica is not None and make_reader is not None
        #: The engines that have no connection and cannot open one, with the reason.
        self.lost: dict[AsyncEngine, str] = {}
        #: Why no unit may begin although there are connections; empty when one may.
        self.unprepared = ""
        #: Called when an engine has no connection and the server is unavailable.
        self.on_lost: Callable[[AsyncEngine, str], None] = lambda _engine, _reason: None
        #: The unit of each checked-out connection.
        self.holders: dict[Connection, OpenUnit] = {}
        self.leftovers = Leftovers(self.holders, dialect)
        self._writer = OneWriter.of(engine.dialect) if dialect.has_one_writer else None
        if self._writer is not None:
            self._writer.describe_by(self._describe_writing_unit)

    def enter_loop(self) -> None:
        """Begin a new line for SQLite's one writer if units ran in another event loop before."""
        if self._writer is not None:
            self._writer.enter_loop()
        if self.replica is not None:
            self.replica.forget_loop()

    def engines(self) -> list[AsyncEngine]:
        """Return the engines that have been built."""
        replica = self.replica.engine if self.replica is not None else None
        return [each for each in (self._engine, self.reader, replica) if each is not None]

    def connect(self, unit: OpenUnit) -> Connection:
        """Check a connection out for *unit*; runs inside a greenlet.

        Raises:
            DatabaseUnavailableError: There is no connection, and the server is unavailable.
            PoolExhaustedError: No connection became free in time.
        """
        asked = time.perf_counter()
        try:
            if self._writer is None or unit.read_only:
                return self._check_out(unit)
            return self._check_out_writer(unit, self._writer)
        finally:
            unit.waited = time.perf_counter() - asked

    def _check_out_writer(self, unit: OpenUnit, writer: OneWriter) -> Connection:
        self._take_writer(unit, writer)
        connection: Connection | None = None
        try:
            if _is_exhausted(self._engine.sync_engine.pool):
                # Sessions outside of units have all connections, and may wait for the writer.
                self._free_writer(unit)
                connection = self._check_out(unit)
                self._take_writer(unit, writer)
            else:
                connection = self._check_out(unit)
        except BaseException:
            if connection is not None:
                self.holders.pop(connection, None)
                connection.close()
            self._free_writer(unit)
            raise
        writer.holder = connection.connection.driver_connection
        return connection

    def _take_writer(self, unit: OpenUnit, writer: OneWriter) -> None:
        if writer.idle:
            writer.take()
        else:
            self._wait_for_writer(unit, writer)
        writer.task = unit.owner
        unit.holds_writer = True

    def _check_out(self, unit: OpenUnit) -> Connection:
        if self.unprepared:
            reason = self.lost.get(self._engine) or self.unprepared
            raise DatabaseUnavailableError(reason, self._units.database)
        connection: Connection | None = None
        if unit.read_only == "replica" and self.replica is not None:
            connection = self.replica.connect()
        if connection is None:
            connection = self._connect_to_database(unit)
        self.holders[connection] = unit
        if unit.read_only:
            self.leftovers.watch(connection.engine)
        return connection

    def note_silence(self, engine: Engine | None) -> None:
        """Leave the replica alone if it is *engine*, whose server did not answer a statement."""
        if self.replica is not None and engine is self.replica.engine.sync_engine:
            self.replica.rest("no answer from the server in time")

    def _connect_to_database(self, unit: OpenUnit) -> Connection:
        engine = self.reading_engine() if unit.read_only else self._engine
        if self.lost and engine in self.lost:
            raise DatabaseUnavailableError(self.lost[engine], self._units.database)
        try:
            return engine.sync_engine.connect()
        except sqlalchemy.exc.TimeoutError:
            raise self._exhausted(unit, engine) from None
        except Exception as error:  # SQLAlchemy does not wrap all errors of drivers
            if not classify.is_unavailable(error):
                raise
            reason = connection_text(error)
            self.on_lost(engine, reason)
            raise DatabaseUnavailableError(reason, self._units.database) from error

    def make_ready(self, connection: Connection, unit: OpenUnit, level: str | None) -> None:
        """Set the isolation level of *connection*, and make it refuse writes; inside a greenlet.

        Args:
            connection: The connection that *unit* has checked out. The unit returns it at its end,
                even if this fails or is cancelled.
            unit: The unit.
            level: SQLAlchemy's name of the isolation level, or None for the engine's.
        """
        if level is not None:
            connection.execution_options(isolation_level=level)
        if unit.read_only and (unit.read_only == "snapshot" or not self._refuses(connection)):
            self._dialect.begin_read_only(connection, level)

    def _refuses(self, connection: Connection) -> bool:
        """Return True if *connection* refuses writes by itself."""
        if self.replica is not None and connection.engine is self.replica.engine.sync_engine:
            return self._replica_refuses
        return connection.engine is not self._engine.sync_engine

    def give_back(self, connection: Connection, driver: Any, unit: OpenUnit) -> None:
        """Return a connection to its pool; runs inside a greenlet.

        Args:
            connection: Of a unit that has ended.
            driver: The driver's connection below it; None when the unit got none.
            unit: The unit.
        """
        self.holders.pop(connection, None)
        try:
            if unit.read_only:
                self.leftovers.drop(connection)
                self._dialect.end_read_only(driver)
        finally:
            try:
                connection.close()
            finally:
                self._free_writer(unit)

    def forget(self, connection: Connection, unit: OpenUnit) -> None:
        """Forget *connection* of *unit*, which was dropped, and the leftovers on it."""
        self.holders.pop(connection, None)
        self.leftovers.forget(connection)
        self._free_writer(unit)

    def _free_writer(self, unit: OpenUnit) -> None:
        """Let the next unit on SQLite write, if *unit* was the one writer."""
        if unit.holds_writer and self._writer is not None:
            unit.holds_writer = False
            if self._writer.task is not unit.owner:
                return  # the line of its event loop is gone
            self._writer.holder = self._writer.task = None
            if self._writer.waiters:
                self._writer.put_nowait(None)
            else:
                self._writer.idle.append(None)

    def reading_engine(self) -> AsyncEngine:
        """Return the engine for read-only units; it is built at the first call."""
        if self._make_reader is None:
            return self._engine
        if self.reader is None:
            self.reader = self._make_reader()
            self._on_reader(self.reader)
            event.listen(self.reader.sync_engine, "checkout", self.leftovers.refuse_writing)
        return self.reader

    def _describe_writing_unit(self) -> str:
        writing = (unit for unit in self._units.values() if unit.holds_writer)
        return next((unit.describe(self._dialect) for unit in writing), "")

    def _wait_for_writer(self, unit: OpenUnit, writer: OneWriter) -> None:
        if writer.task is unit.owner:
            raise UnitOfWorkStateError(
                unit.state,
                "a session of this same task, outside of units, has written and not ended, and "
                "SQLite has one writer",
                "commit or close that session first, or use the session of the unit",
            )
        try:
            writer.get(timeout=self._pool_timeout)
        except Empty:
            raise self._exhausted(unit) from None

    def _exhausted(self, waiter: OpenUnit, engine: AsyncEngine | None = None) -> PoolExhaustedError:
        pool: Any = engine.sync_engine.pool if engine else None
        refusal = getattr(pool, "refusal", "")
        size = (
            pool.checkedout() if refusal else pool.size() + max(0, pool.overflow()) if pool else 1
        )
        holders = self._units.holders_but(waiter)
        if pool is None and self._writer is not None and not self._describe_writing_unit():
            holders = [self._writer.who().rstrip(","), *holders]
        error = PoolExhaustedError(
            size,
            pool.timeout() if pool else self._pool_timeout,
            holders,
            what="connections" if pool else "SQLite's one writer",
            refusal=refusal,
            database=self._units.database,
        )
        self._bus.publish(
            PoolExhausted(size=error.size, holders=error.holders, database=self._units.database)
        )
        return error


def _is_exhausted(pool: Any) -> bool:
    """Return True if every connection of *pool* is in use, and it may open no more.

    Args:
        pool: A queue of connections; another kind of pool has no limit.
    """
    most = getattr(pool, "_max_overflow", -1)
    return bool(0 <= most <= pool.overflow() and not pool.checkedin())
