"""What a unit tells: its begin and its end as events, and who it is in words."""

import time
from typing import TYPE_CHECKING

from db_manager import events as facts
from db_manager.database import Database
from db_manager.errors import CommitOutcomeUnknownError
from db_manager.state import UnitState
from db_manager.telling import said_last
from db_manager.transaction import Transaction
from lifecycle.error_text import tell

if TYPE_CHECKING:
    from db_manager.uow import UnitOfWork


def describe(unit: "UnitOfWork") -> str:
    """Return who *unit* is, for people: plugin, handler, update, age, last statement."""
    where = unit.correlation
    parts = [f"unit {unit.number}"]
    if where.plugin:
        parts.append(f"plugin {where.plugin}")
    if where.handler:
        parts.append(f"handler {where.handler}")
    if where.update_id is not None:
        parts.append(f"update {where.update_id}")
    parts.append(f"open {time.perf_counter() - unit.began_at:.1f} s")
    if said := said_last(unit.statement, unit.dialect):
        parts.append(f"last statement {said[:80]!r}")
    return ", ".join(parts)


def report_begin(unit: "UnitOfWork", database: Database) -> None:
    """Publish that *unit* was entered."""
    database.began.publish(
        facts.UnitBegun(unit=unit.number, attempt=unit.attempt, read_only=bool(unit.read_only))
    )


def report_end(
    unit: "UnitOfWork", transaction: Transaction, database: Database, error: BaseException | None
) -> None:
    """Publish how *unit* ended, and that it is over, if somebody listens.

    Args:
        unit: The unit.
        transaction: Its transaction, which is over and given back.
        database: Where the channels are.
        error: What ended it.
    """
    if transaction.state is UnitState.COMMITTED:
        if database.committed.handlers:
            database.committed.publish(facts.UnitCommitted(unit=unit.number))
    elif transaction.state is UnitState.ROLLED_BACK:
        if database.rolled_back.handlers:
            _report_rollback(unit, transaction, database, error)
    elif database.unknown.handlers:
        database.unknown.publish(
            facts.UnitOutcomeUnknown(
                unit=unit.number, reason=_reason(transaction), xid=transaction.xid
            )
        )
    if database.ended.handlers:
        database.ended.publish(
            facts.UnitClosed(
                unit=unit.number,
                outcome=transaction.state.value,  # type: ignore[arg-type]  # a final state
                cause=transaction.cause,
                error=_said(error),
                duration=time.perf_counter() - unit.began_at,
                statements=unit.statements,
                database_time=unit.database_time,
                waited=unit.waited,
                attempt=unit.attempt,
            )
        )


def _report_rollback(
    unit: "UnitOfWork", transaction: Transaction, database: Database, error: BaseException | None
) -> None:
    database.rolled_back.publish(
        facts.UnitRolledBack(
            unit=unit.number,
            cause=transaction.cause or "error",
            error=_said(error),
            rollback_error=_said(transaction.rollback_error),
        )
    )


def _reason(transaction: Transaction) -> str:
    lost = transaction.error
    if isinstance(lost, CommitOutcomeUnknownError):
        return lost.reason
    return _said(transaction.ended)


def _said(error: BaseException | None) -> str:
    return tell(error) if error is not None else ""
