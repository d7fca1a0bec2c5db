"""Makes units of work, and retries a whole unit when that is safe."""

import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import tenacity
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.database.database import Database
from db_manager.database.open_unit import Nested, ReadOnly, UnitState
from db_manager.dialects import classify
from db_manager.errors import RetriesExhaustedError
from db_manager.events import UnitRetried
from db_manager.unit.uow import UnitOfWork
from lifecycle.error_text import tell

T = TypeVar("T")

#: Seconds before the second attempt, and longest wait before any; the first is also the jitter.
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0


class UnitOfWorkFactory:
    """Makes units of work for one engine; handlers get it as `uow_factory`.

        async with uow_factory() as uow:
            await uow.session.execute(...)

    Args:
        engine: The engine, `db_manager:engine` or one of your own.
    """

    def __init__(self, engine: AsyncEngine | Database) -> None:
        self._database = Database.of(engine)
        self._engine = engine if self._database.options_of(engine) else self._database

    @property
    def engine(self) -> AsyncEngine:
        """The engine of the units, for sessions beside them. Added in 0.2."""
        return self._engine.engine if isinstance(self._engine, Database) else self._engine

    def __call__(
        self,
        *,
        read_only: ReadOnly = False,
        isolation_level: str | None = None,
        resolvable: bool | None = None,
        nested: Nested | None = None,
        detached: bool = False,
    ) -> UnitOfWork:
        """Make a unit of work; nothing begins before its `async with`.

        Args:
            read_only: True for statements that only read, without a common transaction;
                `"snapshot"` if they must see the same state of the data; `"replica"` if that may
                be an older one. The database refuses writes.
            isolation_level: SQLAlchemy's name of the isolation level, for this unit only.
            resolvable: Keep the transaction's id for `resolve`; None means the engine's setting.
            nested: Inside of an open unit of the task: `"refuse"`, `"join"` its transaction, or be
                a `"savepoint"` of it; None means the engine's setting.
            detached: With an inbox: its commit does not say that the update is done.

        Returns:
            The unit.
        """
        unit = UnitOfWork(
            self._engine,
            read_only=read_only,
            isolation_level=isolation_level,
            resolvable=resolvable,
            nested=nested,
        )
        unit.detached = detached
        return unit

    async def run(
        self,
        work: Callable[[UnitOfWork], Awaitable[T]],
        *,
        attempts: int = 3,
        read_only: ReadOnly = False,
        isolation_level: str | None = None,
        resolvable: bool | None = None,
        nested: Nested | None = None,
    ) -> T:
        """Run `work(uow)` as a whole unit, and retry it if it wrote nothing.

        Retried: serialization failures, deadlocks, lock timeouts, SQLite's BUSY, stale plans, a
        connection lost before COMMIT, an unavailable server. Never retried: an unknown outcome,
        whatever the error; a violated constraint, a cancellation, any other error. Each attempt
        has a new unit and a new session; callbacks of retried attempts are dropped.

        As a part of an open unit *work* is called once, whatever *attempts* says: only the whole
        can be retried, and its own `run` gets the error.

        Args:
            work: Called with the unit; may be called several times.
            attempts: Most attempts.
            read_only: As for a single unit.
            isolation_level: As for a single unit.
            resolvable: As for a single unit.
            nested: As for a single unit.

        Returns:
            What *work* returned in the attempt that was committed.

        Raises:
            RetriesExhaustedError: Every attempt failed with a retryable error.
            CommitOutcomeUnknownError: COMMIT was sent and no answer came: not retried.
            ValueError: *isolation_level* is AUTOCOMMIT, or *nested* is something else.
        """
        started = time.perf_counter()
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(FIRST_WAIT, LONGEST_WAIT - FIRST_WAIT)
            + tenacity.wait_random(0, FIRST_WAIT),
            retry=tenacity.retry_if_exception(lambda error: _may_repeat(unit, error)),
            before_sleep=lambda state: self._report(state, unit),
            retry_error_callback=lambda state: _give_up(state, started),
        )
        make = partial(
            self,
            read_only=read_only,
            isolation_level=isolation_level,
            resolvable=resolvable,
            nested=nested,
        )
        caller = sys._getframe(1)  # noqa: SLF001 -- as for a single unit
        place = caller.f_code, caller.f_lasti
        unit = make()  # raises here if an option is invalid

        async def attempt() -> T:
            nonlocal unit
            if unit.state != "new":
                unit = make()
            unit.attempt = retrying.statistics["attempt_number"]
            unit.defer_callbacks = True
            async with unit:
                unit.entered_by, unit.entered_at = place
                return await work(unit)

        try:
            return await retrying(attempt)
        finally:
            interrupted = await unit.run_callbacks()
            if interrupted is not None:
                raise interrupted

    def _report(self, state: tenacity.RetryCallState, unit: UnitOfWork) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None or state.next_action is None:
            return
        self._database.bus.publish(
            UnitRetried(
                unit=unit.number,
                database=self._database.name,
                attempt=state.attempt_number,
                error=tell(error),
                sqlstate=classify.sqlstate(error),
                wait=state.next_action.sleep,
            )
        )

    def __repr__(self) -> str:
        return f"<UnitOfWorkFactory open={len(self._database.open)}>"


def _may_repeat(unit: UnitOfWork, error: BaseException) -> bool:
    """Return True if *unit* is a whole one and wrote nothing, and another attempt may succeed."""
    # The error alone is not enough: a statement may have failed after a COMMIT by hand.
    undone = unit.outer is None and unit.state is UnitState.ROLLED_BACK
    return undone and classify.is_retryable(error)


def _give_up(state: tenacity.RetryCallState, started: float) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    raise RetriesExhaustedError(state.attempt_number, time.perf_counter() - started) from error
