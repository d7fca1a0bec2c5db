"""asyncpg's connection, with an ear for what the server really answered to COMMIT."""

from typing import Any

import asyncpg

from db_manager.errors import TransactionAbortedError


class CheckedConnection(asyncpg.Connection):
    """Notices that the server answered COMMIT with ROLLBACK.

    PostgreSQL does so, without an error, when a statement of the transaction had failed; asyncpg
    does not look. Whatever lane the statement took, the unit learns it here for free.
    """

    #: Says to the unit that it need not ask the server itself.
    hears_rollback = True

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 -- the signature of asyncpg
        """Execute *query* and return the server's command tag.

        Raises:
            TransactionAbortedError: COMMIT was answered with ROLLBACK.
        """
        status: str = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query == "COMMIT;":
            raise TransactionAbortedError
        return status
