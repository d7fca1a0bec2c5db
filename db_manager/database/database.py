"""What all units of one engine share: settings, the open units, connections, the runner."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy.exc
from sqlalchemy import MetaData, event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import Pool

from db_manager import events as facts
from db_manager.database.checkout import Checkout
from db_manager.database.open_unit import Nested, OpenUnit
from db_manager.database.open_units import OpenUnits
from db_manager.database.replica import Replica
from db_manager.database.statements import CALLS, Statements, no_answer
from db_manager.dialects.ending_sql import commits_first
from db_manager.dialects.in_use import is_silent, origin
from db_manager.dialects.known import dialect_of
from db_manager.errors import ManagerClosedError, WrongEventLoopError
from db_manager.running.choose import choose_runner
from db_manager.running.port import Runner
from db_manager.sending import Delivery
from lifecycle.bus import EventBus

#: Name of the execution option with which an engine refers to its Database.
OPTION: Final = "db_manager"
#: Of units on an engine that is used as it is.
NO_OPTIONS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """Settings of units. Times are in seconds.

    Args:
        exit_timeout: Longest wait for COMMIT or ROLLBACK; then the outcome is unknown.
        pool_timeout: Longest wait for SQLite's one writer (an engine's pool has its own).
        slow_unit: Age of an open unit at which a warning is published.
        resolvable: Keep each unit's transaction id for `resolve` (PostgreSQL, one round trip).
        nested: What becomes of a unit inside of a unit.
        control_flow: Exceptions that end a block without an error.
    """

    exit_timeout: float = 5.0
    pool_timeout: float = 5.0
    slow_unit: float = 1.0
    resolvable: bool = False
    nested: Nested = "refuse"
    control_flow: tuple[type[BaseException], ...] = ()

    def cause_of(self, error: BaseException) -> facts.Cause:
        """Return why a unit is rolled back that ends with *error*."""
        if isinstance(error, asyncio.CancelledError):
            return "cancelled"
        return "control_flow" if isinstance(error, self.control_flow) else "error"


class Database:
    """The state that the units of one engine share.

    Args:
        engine: The engine of the units.
        make_reader: Builds the engine for read-only units; called for the first such unit.
        replica: The engine of its read replica.
        name: What events call it; empty for the first database of a bot.
        metadata: The tables that are in it, if they are known.
        settings: Settings of its units.
        bus: The bus on which its units publish; by default a new one.
        make_runner: Makes the runner for an event loop; by default `choose_runner` decides.

    Raises:
        ConfigError: The environment variable `DB_MANAGER_RUNNER` names no runner.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        make_reader: Callable[[], AsyncEngine] | None = None,
        replica: AsyncEngine | None = None,
        name: str = "",
        metadata: MetaData | None = None,
        settings: UnitSettings | None = None,
        bus: EventBus | None = None,
        make_runner: Callable[[], Runner] | None = None,
    ) -> None:
        self.engine = engine
        self.name = name
        self.metadata = metadata
        self.dialect = dialect_of(engine.dialect)
        self.settings = settings or UnitSettings()
        self.bus = bus or EventBus()
        self.delivery: Delivery | None = None  #: Keeps the messages of its units.
        self.state: Literal["open", "stopping", "closed"] = "open"
        #: The runner of the event loop of the units; set when the first unit is entered.
        self.runner: Runner
        self._make_runner = make_runner or choose_runner(
            engine.dialect.driver, self.dialect.releases
        )
        self.began = self.bus.channel(facts.UnitBegun)
        self.committed = self.bus.channel(facts.UnitCommitted)
        self.rolled_back = self.bus.channel(facts.UnitRolledBack)
        self.unknown = self.bus.channel(facts.UnitOutcomeUnknown)
        self.ended = self.bus.channel(facts.UnitClosed)
        self.answered = self.bus.channel(facts.UnitStatement)
        self.open = OpenUnits(self.dialect, self.settings.slow_unit, self.bus, name)
        self.checkout = Checkout(
            engine,
            self.dialect,
            self.open,
            make_reader=make_reader,
            on_reader=self._listen,
            replica=Replica(replica, name, self.bus) if replica is not None else None,
            pool_timeout=self.settings.pool_timeout,
            bus=self.bus,
        )
        self._statements = Statements(
            engine, self.dialect, self.checkout.holders, self.answered, name
        )
        self._counts = False
        self._watched: set[Engine] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        for built in self.checkout.engines():
            self._listen(built)

    @classmethod
    def of(cls, engine: "AsyncEngine | Database") -> "Database":
        """Return the Database of *engine*; one is made for an engine that has none."""
        if isinstance(engine, Database):
            return engine
        return cls.known(engine) or cls(engine)

    @classmethod
    def known(cls, engine: AsyncEngine) -> "Database | None":
        """Return the Database of *engine*, if it has one."""
        return engine.sync_engine.get_execution_options().get(OPTION)

    def options_of(self, engine: "AsyncEngine | Database") -> Mapping[str, Any]:
        """Return what was added to our engine where *engine* is its `execution_options(…)`."""
        if isinstance(engine, Database) or engine.sync_engine is self.engine.sync_engine:
            return NO_OPTIONS
        options = engine.sync_engine.get_execution_options()
        return {name: value for name, value in options.items() if name != OPTION}

    # -- entering a unit ------------------------------------------------------------------

    def enter(self, unit: OpenUnit, task: asyncio.Task[Any]) -> OpenUnit | None:
        """Register *unit*, which *task* enters.

        Returns:
            None; or the unit that the task has open, and then *unit* is not registered.

        Raises:
            ManagerClosedError: The plugin is stopping or stopped.
            WrongEventLoopError: The engine belongs to another loop.
        """
        if self.state != "open" and task not in self.open:  # what is open may be finished
            raise ManagerClosedError(self.name)
        loop = task.get_loop()
        if self._loop is not loop:
            self._move_to(loop)
        if task in self.open:
            return self.open[task]
        self.open[task] = unit
        if self.open.watch is None:
            self.open.start_watch(loop)
        if not self._counts and (self.ended.handlers or self.answered.handlers):
            self._count_statements()
        return None

    def leave(self, unit: OpenUnit) -> None:
        """Let *unit* go."""
        if unit.owner is not None:
            self.open.pop(unit.owner, None)
        if self.open.idle is not None:
            self.open.look_whether_idle()

    @property
    def hears_ends(self) -> bool:
        """True when somebody listens to the end of units."""
        heard = self.ended.handlers or self.rolled_back.handlers or self.committed.handlers
        return bool(heard or self.unknown.handlers)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        pool = self.engine.sync_engine.pool
        if self._loop is not None and self._pool is pool:  # dispose() makes a new pool
            raise WrongEventLoopError
        self._loop, self._pool = loop, pool
        self.runner = self._make_runner()
        self.open.forget_loop()
        self.checkout.enter_loop()

    # -- events of the engine -------------------------------------------------------------

    def _listen(self, engine: AsyncEngine) -> None:
        sync = engine.sync_engine
        sync.update_execution_options(**{OPTION: self})
        event.listen(sync, "handle_error", self._note_error)
        event.listen(sync, "do_connect", self._refuse_when_closed)
        if self._counts:
            self._statements.count(engine)

    def _count_statements(self) -> None:
        """Count and time statements from now on: an event that needs them has subscribers."""
        self._counts = True
        for engine in self.checkout.engines():
            self._statements.count(engine)

    def watch_ddl(self, engine: Engine) -> None:
        """Look, from now on, for statements of units that commit what was before them."""
        if engine in self._watched:
            return
        self._watched.add(engine)
        for name in CALLS:
            event.listen(engine, name, self._note_ddl)

    def _note_ddl(self, _cursor: object, sql: str, *rest: Any) -> None:
        unit = self.checkout.holders.get(rest[-1].root_connection)
        if unit is not None and commits_first(sql):
            unit.implicit_commits += 1  # now: its answer may be lost

    def _note_error(self, context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        connection = context.connection
        silence = None
        if isinstance(error, TimeoutError) and connection is not None:
            # asyncpg's deadline has passed. SQLAlchemy drops the connection and re-raises.
            context.is_disconnect = context.invalidate_pool_on_disconnect = True
            silence = no_answer(context.statement)
        refused = isinstance(context.sqlalchemy_exception, sqlalchemy.exc.InterfaceError)
        if refused and connection is not None and self.dialect.is_other_task_busy(origin(error)):
            # SQLAlchemy would return this connection with its transaction open, and every later
            # unit on it would fail.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False
        if self.dialect.knows_lost_lines and not (context.is_disconnect and is_silent(error)):
            # The other connections may be fine, and notice by themselves if the server closes them.
            context.invalidate_pool_on_disconnect = False
        if context.is_disconnect and is_silent(error):
            self.checkout.note_silence(context.engine)
        unit = self.checkout.holders.get(connection) if connection is not None else None
        # Without a statement it is a COMMIT or ROLLBACK, whose error the transaction handles.
        if unit is not None and connection is not None and context.statement is not None:
            wrong = silence or context.sqlalchemy_exception or error
            unit.statements += 1
            unit.mark_failed(wrong)
            if context.execution_context is not None:
                self._statements.fail(unit, context.statement, wrong)
            if self.dialect.needs_transaction(origin(error)):
                # asyncpg has prepared it, which leaves an implicit transaction open.
                self.checkout.leftovers.note(connection)
                unit.need_transaction("this statement (a stream, for example)")
        return silence

    def _refuse_when_closed(self, *_: object) -> None:
        if self.state == "closed":
            raise ManagerClosedError(self.name)

    # -- the end --------------------------------------------------------------------------

    async def drain(self, deadline: float, rollback_time: float) -> facts.DatabaseDrained:
        """Refuse new units and wait for the open ones; see `OpenUnits.drain`."""
        self.state = "stopping"
        return await self.open.drain(deadline, rollback_time)

    async def dispose(self) -> None:
        """Close every connection; later use raises `ManagerClosedError` instead of reconnecting.

        Raises:
            WrongEventLoopError: The connections belong to another event loop, and only there they
                can be closed.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move_to(loop)
        self.state = "closed"
        self.open.abandon()
        self.open.unwatch()
        async with AsyncExitStack() as closing:
            for engine in self.checkout.engines():
                closing.push_async_callback(engine.dispose)
            if self.checkout.replica is not None:
                closing.push_async_callback(self.checkout.replica.stop_asking)
            await self.open.wait_for_callbacks()

    def pool_levels(self) -> dict[str, float]:
        """Return the numbers of connections (allowed, idle, used) and of open units."""
        pool: Any = self.engine.sync_engine.pool
        return {
            "size": pool.size(),
            "idle": pool.checkedin(),
            "used": pool.checkedout(),
            "units": len(self.open),
        }
