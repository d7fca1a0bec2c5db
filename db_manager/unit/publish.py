"""Publishes the begin and the end of a unit."""

import time

from db_manager import events as facts
from db_manager.database.database import Database
from db_manager.database.open_unit import COMMITTED, OpenUnit, UnitState
from db_manager.errors import CommitOutcomeUnknownError
from lifecycle.error_text import tell


def report_begin(unit: OpenUnit, database: Database) -> None:
    """Publish that *unit* was entered."""
    database.began.publish(
        facts.UnitBegun(
            unit=unit.number,
            database=database.name,
            attempt=unit.attempt,
            read_only=bool(unit.read_only),
        )
    )


def report_join(unit: OpenUnit, outer: OpenUnit, mode: facts.JoinMode, database: Database) -> None:
    """Publish that *unit* was entered inside of *outer*."""
    if database.bus.channel(facts.UnitJoined).handlers:
        database.bus.publish(
            facts.UnitJoined(
                unit=outer.number, database=database.name, inner=unit.number, mode=mode
            )
        )


def report_leave(
    unit: OpenUnit,
    outer: OpenUnit,
    mode: facts.JoinMode,
    outcome: facts.JoinOutcome,
    database: Database,
) -> None:
    """Publish that the block of *unit*, which had joined *outer*, is over.

    Args:
        unit: The inner unit; `error` has what left its block.
        outer: The unit whose transaction it shared.
        mode: How it had joined.
        outcome: What becomes of what it did.
        database: Their database.
    """
    if database.bus.channel(facts.UnitLeft).handlers:
        database.bus.publish(
            facts.UnitLeft(
                unit=outer.number,
                database=database.name,
                inner=unit.number,
                mode=mode,
                outcome=outcome,
                error=_said(unit.error),
                duration=time.perf_counter() - unit.began_at,
            )
        )


def report_end(unit: OpenUnit, database: Database, error: BaseException | None) -> None:
    """Publish the outcome of *unit* and `uow.close`, if they have subscribers.

    Args:
        unit: The unit, which has ended and released everything.
        database: Has the channels.
        error: The error that ended it, or None.
    """
    if unit.state is COMMITTED:
        if database.committed.handlers:
            database.committed.publish(
                facts.UnitCommitted(unit=unit.number, database=database.name)
            )
    elif unit.state is UnitState.ROLLED_BACK:
        if database.rolled_back.handlers:
            _report_rollback(unit, database, error)
    elif database.unknown.handlers:
        database.unknown.publish(
            facts.UnitOutcomeUnknown(
                unit=unit.number, database=database.name, reason=_reason(unit), xid=unit.xid
            )
        )
    if database.ended.handlers:
        database.ended.publish(
            facts.UnitClosed(
                unit=unit.number,
                database=database.name,
                outcome=unit.state._value_,  # type: ignore[arg-type]  # a final state
                cause=unit.cause,
                error=_said(error),
                duration=time.perf_counter() - unit.began_at,
                statements=unit.statements,
                database_time=unit.database_time,
                waited=unit.waited,
                attempt=unit.attempt,
            )
        )


def _report_rollback(unit: OpenUnit, database: Database, error: BaseException | None) -> None:
    database.rolled_back.publish(
        facts.UnitRolledBack(
            unit=unit.number,
            database=database.name,
            cause=unit.cause or "error",
            error=_said(error),
            rollback_error=_said(unit.rollback_error),
        )
    )


def _reason(unit: OpenUnit) -> str:
    lost = unit.error
    if isinstance(lost, CommitOutcomeUnknownError):
        return lost.reason
    return _said(unit.ended)


def _said(error: BaseException | None) -> str:
    return tell(error) if error is not None else ""
