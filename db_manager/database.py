"""What all units of one engine share: their settings, who holds what, and whether it is open."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import Pool
from sqlalchemy.util.queue import Empty

from db_manager import classify, liveness
from db_manager import events as facts
from db_manager.callbacks import report_failure
from db_manager.errors import (
    DatabaseUnavailableError,
    ManagerClosedError,
    PoolExhaustedError,
    ReadOnlyUnsupportedError,
    UnitOfWorkStateError,
    WrongEventLoopError,
)
from db_manager.lanes import need_transaction
from db_manager.leftovers import Leftovers, refuse_writing
from db_manager.line import FairQueue
from db_manager.open_unit import OpenUnit, UnitState
from db_manager.running.choose import choose_runner
from db_manager.running.port import Runner
from db_manager.sqlite import SqliteConnection
from db_manager.statements import Statements
from db_manager.telling import connection_text, said_last
from lifecycle.bus import EventBus
from lifecycle.correlation import set_correlation

#: Name of the engine's execution option that leads from an engine to its Database.
OPTION: Final = "db_manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """How patient units are. Times are in seconds.

    Args:
        exit_timeout: Longest COMMIT or ROLLBACK; after it the outcome is unknown.
        pool_timeout: Longest wait for SQLite's one writer (an engine's pool has its own).
        slow_unit: Age at which an open unit is warned about.
        resolvable: Keep each unit's transaction id for `resolve` (PostgreSQL, one round trip).
        control_flow: Exceptions that end a block without being an error.
    """

    exit_timeout: float = 5.0
    pool_timeout: float = 5.0
    slow_unit: float = 1.0
    resolvable: bool = False
    control_flow: tuple[type[BaseException], ...] = ()


class Database:
    """The shared side of the units of one engine.

    Args:
        engine: The engine of the units.
        make_reader: Builds an engine for read-only units, on the first of them.
        settings: How patient its units are.
        bus: Where its units publish; an engine of one's own needs none.
        make_runner: Makes what runs its units in an event loop; None takes `choose_runner`.

    Raises:
        ConfigError: `DB_MANAGER_RUNNER` of the environment names no runner.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        make_reader: Callable[[], AsyncEngine] | None = None,
        settings: UnitSettings | None = None,
        bus: EventBus | None = None,
        make_runner: Callable[[], Runner] | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings or UnitSettings()
        self.bus = bus or EventBus()
        #: The open unit of each task: a task has at most one.
        self.open: dict[asyncio.Task[Any], OpenUnit] = {}
        self.state: Literal["open", "stopping", "closed"] = "open"
        #: The engines that have no connection and get none, and why.
        self.lost: dict[AsyncEngine, str] = {}
        #: Of the loop that the units run in, known from the first of them on.
        self.runner: Runner
        self._make_runner = make_runner or choose_runner(engine.dialect.driver)
        #: Called when an engine has no connection, and the server is unavailable for a new one.
        self.on_lost: Callable[[AsyncEngine, str], None] = lambda _engine, _reason: None
        self.began = self.bus.channel(facts.UnitBegun)
        self.committed = self.bus.channel(facts.UnitCommitted)
        self.rolled_back = self.bus.channel(facts.UnitRolledBack)
        self.unknown = self.bus.channel(facts.UnitOutcomeUnknown)
        self.ended = self.bus.channel(facts.UnitClosed)
        self.slow = self.bus.channel(facts.UnitSlow)
        self.answered = self.bus.channel(facts.UnitStatement)
        self._make_reader = make_reader
        self._reader: AsyncEngine | None = None
        self._connections: dict[Connection, OpenUnit] = {}
        self._leftovers = Leftovers(self._connections)
        self._statements = Statements(engine.url, self._connections, self.answered)
        self._counts = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        self._idle: asyncio.Event | None = None
        self._watch: asyncio.TimerHandle | None = None
        #: Tasks in which the callbacks of abandoned units run.
        self._consequences: set[asyncio.Task[None]] = set()
        # SQLite has one writer. Waiting for its place in a line of ours is fair and costs nothing;
        # waiting in the driver's threads polls, and starves.
        self.writer = _one_writer() if engine.dialect.name == "sqlite" else None
        self._listen(engine)

    @classmethod
    def of(cls, engine: "AsyncEngine | Database") -> "Database":
        """Return the database of *engine*, made now when the engine is the user's own."""
        if isinstance(engine, Database):
            return engine
        known: Database | None = engine.sync_engine.get_execution_options().get(OPTION)
        return known if known is not None else cls(engine)

    # -- the life of a unit ---------------------------------------------------------------

    def enter(self, unit: OpenUnit, task: asyncio.Task[Any]) -> None:
        """Let *unit* in.

        Raises:
            ManagerClosedError: The plugin is stopping or stopped.
            WrongEventLoopError: The engine belongs to another loop.
            UnitOfWorkStateError: The task has an open unit already.
        """
        if self.state != "open":
            raise ManagerClosedError
        loop = task.get_loop()
        if self._loop is not loop:
            self._move_to(loop)
        if task in self.open:
            raise UnitOfWorkStateError(
                self.open[task].state,
                "this task has a unit of work open already, and a second one could wait for the "
                "connection that the first one holds",
                "pass the open unit on, use its savepoint(), or end it first",
            )
        self.open[task] = unit
        if not self._counts and (self.ended.handlers or self.answered.handlers):
            self._count_statements()
        if self._watch is None:
            self._watch_units(loop, self.settings.slow_unit)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        pool = self.engine.sync_engine.pool
        if self._loop is not None and self._pool is pool:  # dispose() would have made a new one
            raise WrongEventLoopError
        self._loop, self._pool, self._watch, self._consequences = loop, pool, None, set()
        self.runner = self._make_runner()
        if self.writer is not None:
            self.writer = _one_writer()

    def leave(self, task: asyncio.Task[Any] | None) -> None:
        """Let the unit of *task* go."""
        if task is not None:
            self.open.pop(task, None)
        if self._idle is not None and not self.open:
            self._idle.set()

    def connect(self, unit: OpenUnit) -> Connection:
        """Check a connection out for *unit*; runs inside a greenlet.

        Raises:
            DatabaseUnavailableError: There is no connection, and the server gives none.
            PoolExhaustedError: No connection came free in time.
        """
        writer = None if unit.read_only else self.writer
        asked = time.perf_counter()
        try:
            if writer is not None:
                self._enter_writer(unit, writer)
            connection = self._check_out_holding(unit, writer)
        finally:
            unit.waited = time.perf_counter() - asked
        unit.holds_writer = writer is not None
        return connection

    def _check_out_holding(self, unit: OpenUnit, writer: object) -> Connection:
        try:
            return self._check_out(unit)
        except BaseException:
            if writer is not None:
                self.free_writer()
            raise

    def _check_out(self, unit: OpenUnit) -> Connection:
        engine = self._reading_engine() if unit.read_only else self.engine
        if self.lost and engine in self.lost:
            raise DatabaseUnavailableError(self.lost[engine])
        try:
            connection = engine.sync_engine.connect()
        except sqlalchemy.exc.TimeoutError:
            raise self._exhausted(unit, engine) from None
        except Exception as error:  # also the driver's own: SQLAlchemy does not wrap all of them
            if not classify.is_unavailable(error):
                raise
            reason = connection_text(error)
            self.on_lost(engine, reason)
            raise DatabaseUnavailableError(reason) from error
        self._connections[connection] = unit
        if unit.read_only:
            self._leftovers.watch(engine)
        return connection

    def make_ready(self, connection: Connection, unit: OpenUnit, level: str | None) -> None:
        """Set the isolation level of *connection*, and let it refuse writes; inside a greenlet.

        Args:
            connection: The connection that *unit* has checked out and gives back at its end, also
                when this fails or is cancelled.
            unit: The unit.
            level: As SQLAlchemy names it, or None for the engine's own.
        """
        if level is not None:
            connection.execution_options(isolation_level=level)
        own = connection.engine is self.engine.sync_engine
        if unit.read_only and (own or unit.read_only == "snapshot"):
            _begin_read_only(connection, level)

    def give_back(self, connection: Connection) -> None:
        """Return *connection* of an ended unit to its pool; runs inside a greenlet."""
        unit = self._connections.pop(connection, None)
        try:
            self._leftovers.drop(connection)
            if unit is not None and unit.read_only:
                _end_snapshots(connection)
        finally:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Think no more of *connection*, nor of what its unit left on it: its line was dropped."""
        self._connections.pop(connection, None)
        self._leftovers.forget(connection)

    def free_writer(self) -> None:
        """Let the next unit write, on SQLite."""
        if self.writer is not None:
            self.writer.put_nowait(None)

    def _reading_engine(self) -> AsyncEngine:
        if self._make_reader is None:
            return self.engine
        if self._reader is None:
            self._reader = self._make_reader()
            self._listen(self._reader)
            event.listen(self._reader.sync_engine, "checkout", refuse_writing)
        return self._reader

    def _enter_writer(self, unit: OpenUnit, writer: FairQueue[None]) -> None:
        try:
            writer.get(timeout=self.settings.pool_timeout)
        except Empty:
            raise self._exhausted(unit) from None

    def _exhausted(self, waiter: OpenUnit, engine: AsyncEngine | None = None) -> PoolExhaustedError:
        pool: Any = engine.sync_engine.pool if engine else None
        refusal = getattr(pool, "refusal", "")
        size = (
            pool.checkedout() if refusal else pool.size() + max(0, pool.overflow()) if pool else 1
        )
        holders = [
            unit
            for unit in self.open.values()
            if unit is not waiter and unit.checked_out is not None
        ]
        holders.sort(key=lambda unit: unit.began_at)
        error = PoolExhaustedError(
            size,
            pool.timeout() if pool else self.settings.pool_timeout,
            [unit.describe(self.engine.dialect.name) for unit in holders],
            what="connections" if pool else "SQLite's one writer",
            refusal=refusal,
        )
        self.bus.publish(facts.PoolExhausted(size=error.size, holders=error.holders))
        return error

    # -- what the engine tells ------------------------------------------------------------

    def _listen(self, engine: AsyncEngine) -> None:
        sync = engine.sync_engine
        sync.update_execution_options(**{OPTION: self})
        event.listen(sync, "handle_error", self._note_error)
        event.listen(sync, "do_connect", self._refuse_when_closed)
        if self._counts:
            self._statements.listen(engine)

    def _count_statements(self) -> None:
        """Count and time statements from now on: somebody reads the end of units."""
        self._counts = True
        for engine in (self.engine, self._reader):
            if engine is not None:
                self._statements.listen(engine)

    def _note_error(self, context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        connection = context.connection
        silence = None
        if isinstance(error, TimeoutError) and connection is not None:
            # asyncpg's deadline: SQLAlchemy drops the connection and passes it on as it is.
            context.is_disconnect = context.invalidate_pool_on_disconnect = True
            silence = _no_answer(context.statement)
        if connection is not None and classify.is_other_task_busy(error):
            # SQLAlchemy would give this connection back with its transaction open, and every
            # later unit on it would fail.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False
        if context.dialect.driver in liveness.KNOWN and not liveness.is_silent(error):
            # The others hear it themselves when the server leaves them; they may be well.
            context.invalidate_pool_on_disconnect = False
        unit = self._connections.get(connection) if connection is not None else None
        # Without a statement it is a COMMIT or ROLLBACK, which judges itself.
        if unit is not None and connection is not None and context.statement is not None:
            wrong = silence or context.sqlalchemy_exception or error
            unit.statements += 1
            unit.mark_failed(wrong)
            if context.execution_context is not None:
                self._statements.fail(unit, connection, context.statement, wrong)
            if classify.sqlstate(error) == classify.NO_TRANSACTION:
                # asyncpg has prepared it, which leaves an implicit transaction open.
                self._leftovers.note(connection)
                need_transaction(unit, "such a statement, as that of a stream,")
        return silence

    def _refuse_when_closed(self, *_: object) -> None:
        if self.state == "closed":
            raise ManagerClosedError

    # -- watching and ending --------------------------------------------------------------

    def _warn_of_slow_units(self) -> None:
        self._watch = None
        if not self.open or self._loop is None:
            return
        now = time.perf_counter()
        for task, unit in tuple(self.open.items()):
            if task.done():
                self._abandon(task, unit)
            elif not unit.warned and now - unit.began_at >= self.settings.slow_unit:
                unit.warned = True
                if self.slow.handlers:
                    self.slow.publish(
                        facts.UnitSlow(
                            unit=unit.number,
                            duration=now - unit.began_at,
                            holds_connection=unit.checked_out is not None,
                            statement=said_last(unit.statement, self.engine.dialect.name)[:200],
                            correlation=unit.correlation,
                        )
                    )
        self._watch_units(self._loop, self.settings.slow_unit / 2)

    def _abandon(self, task: asyncio.Task[Any], unit: OpenUnit) -> None:
        """End *unit*, whose task is over: nobody is there to raise in, or to run its callbacks."""
        try:
            unit.abandon()
        except Exception as error:  # noqa: BLE001 -- one unit must not end the watch over the others
            report_failure("the end of an abandoned unit", unit.number, self.bus, error)
        finally:
            self.leave(task)
        if unit.state is UnitState.ROLLED_BACK:
            loop = asyncio.get_running_loop()
            running = loop.create_task(_run_callbacks(unit), context=Context())
            self._consequences.add(running)
            running.add_done_callback(self._consequences.discard)

    def _abandon_ended(self) -> None:
        for task, unit in tuple(self.open.items()):
            if task.done():
                self._abandon(task, unit)

    def _watch_units(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        # In a context of its own: it would keep the variables of whoever came first alive.
        self._watch = loop.call_later(delay, self._warn_of_slow_units, context=Context())

    async def drain(self, deadline: float, rollback_time: float) -> facts.DatabaseDrained:
        """Refuse new units and wait for the open ones.

        Args:
            deadline: Seconds to wait for the units to end by themselves.
            rollback_time: Seconds that the rest, cancelled then, may take to roll back.

        Returns:
            How many there were, and which had to be cancelled.
        """
        started = time.perf_counter()
        self.state = "stopping"
        waited = len(self.open)
        self._abandon_ended()
        await self._wait_idle(deadline)
        self._abandon_ended()
        rest = {
            task: unit for task, unit in self.open.items() if task is not asyncio.current_task()
        }
        named = tuple(unit.describe(self.engine.dialect.name) for unit in rest.values())
        for task in rest:
            task.cancel()
        if rest:
            await self._wait_idle(rollback_time)
        return facts.DatabaseDrained(
            waited=waited, cancelled=named, duration=time.perf_counter() - started
        )

    async def _wait_idle(self, seconds: float) -> None:
        if not self.open:
            return
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            self._idle = None

    async def dispose(self) -> None:
        """Close every connection; a later use is `ManagerClosedError`, not a silent new pool.

        Raises:
            WrongEventLoopError: The connections belong to another loop, and only that can close
                them.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move_to(loop)
        self.state = "closed"
        self._abandon_ended()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        async with AsyncExitStack() as closing:
            for engine in (self.engine, self._reader):
                if engine is not None:
                    closing.push_async_callback(engine.dispose)
            if self._consequences:
                await asyncio.wait(self._consequences)

    def pool_levels(self) -> dict[str, float]:
        """Return how many connections are idle, used and allowed, and how many units are open."""
        pool: Any = self.engine.sync_engine.pool
        return {
            "size": pool.size(),
            "idle": pool.checkedin(),
            "used": pool.checkedout(),
            "units": len(self.open),
        }


async def _run_callbacks(unit: OpenUnit) -> None:
    set_correlation(unit.correlation)
    await (
        unit.run_callbacks()
    )  # what it returns was reported, and there is no block to raise it from


def _no_answer(statement: str | None) -> sqlalchemy.exc.OperationalError:
    reason = TimeoutError("no answer from the server in time: the connection is closed")
    return sqlalchemy.exc.OperationalError(
        statement, None, reason, hide_parameters=True, connection_invalidated=True
    )


def _one_writer() -> FairQueue[None]:
    place: FairQueue[None] = FairQueue(1)
    place.put_nowait(None)
    return place


def _end_snapshots(connection: Connection) -> None:
    if not (connection.closed or connection.invalidated):
        driver = connection.connection.driver_connection
        if isinstance(driver, SqliteConnection):
            driver.end_snapshots()


def _begin_read_only(connection: Connection, level: str | None) -> None:
    """Give the unit one snapshot of the data, and let the server refuse writes."""
    name = connection.dialect.name
    driver = connection.connection.driver_connection
    if name == "postgresql":
        connection.execution_options(
            isolation_level=level or "REPEATABLE READ", postgresql_readonly=True
        )
    elif name in {"mysql", "mariadb"}:
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    elif isinstance(driver, SqliteConnection):
        driver.begin_snapshot()
    else:
        raise ReadOnlyUnsupportedError(name)
