"""Finds out afterwards how a unit with an unknown outcome ended."""

from typing import Literal

import tenacity
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.dialects.postgresql.postgresql import TRANSACTION_STATUS
from db_manager.errors import CommitOutcomeUnknownError, DbManagerError

Resolution = Literal["committed", "rolled_back", "outcome_unknown", "wrote_nothing"]


async def resolve(
    engine: AsyncEngine, error: CommitOutcomeUnknownError, *, patience: float = 10.0
) -> Resolution:
    """Ask PostgreSQL how the transaction of *error* ended (`pg_xact_status`).

    Only the server that ran the transaction knows. A replica promoted after an asynchronous
    failover may answer `committed`, or nothing, for a transaction that it never received.

    Args:
        engine: An engine of the same database.
        error: The error of a unit that was opened with `resolvable=True`.
        patience: Seconds for which to ask again while the transaction is still in progress.

    Returns:
        `committed` or `rolled_back`; `outcome_unknown` if the server does not know any more, or if
        the transaction is still in progress; `wrote_nothing` if there was nothing to commit.

    Raises:
        DbManagerError: The unit kept no transaction id.
    """
    if error.xid is None:
        raise DbManagerError(
            f"unit {error.unit} kept no transaction id; open it with resolvable=True, or set "
            f"[database] resolvable = true (PostgreSQL only)"
        )

    if error.xid == 0:
        return "wrote_nothing"

    async def ask() -> str | None:
        async with engine.connect() as connection:
            known = {"xid": str(error.xid)}
            status: str | None = await connection.scalar(TRANSACTION_STATUS, known)
            return status

    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_delay(patience),
        wait=tenacity.wait_exponential(0.05, 0.45) + tenacity.wait_random(0, 0.05),
        retry=tenacity.retry_if_result(lambda status: status == "in progress"),
        retry_error_callback=lambda _state: None,
    )
    status: str | None = await retrying(ask)
    answers: dict[str | None, Resolution] = {"committed": "committed", "aborted": "rolled_back"}
    return answers.get(status, "outcome_unknown")
