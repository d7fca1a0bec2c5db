"""psycopg's connection, which counts the transactions that ended on it."""

from typing import Any, Final

from psycopg import AsyncConnection, pq

_OPEN: Final = frozenset({pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR})


class CountingConnection(AsyncConnection[Any]):
    """Notices the end of a transaction, whoever asked for it."""

    #: How many transactions ended on it so far.
    ends = 0

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Let the generator of a command talk to the server until it is answered."""
        begun = self.pgconn.transaction_status in _OPEN
        try:
            return await super().wait(*args, **kwargs)
        finally:
            if begun and self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                self.ends += 1
