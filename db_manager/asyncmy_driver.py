"""asyncmy's connection, which counts the transactions that ended on it."""

import re
from typing import Any, Final

from asyncmy.connection import Connection
from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS

#: Ends a transaction, also where another one begins in the same breath. Whatever else ends one,
#: DDL for example, commits it.
_SAID: Final = re.compile(
    r"(?:\s|/\*.*?\*/)*(?:COMMIT|BEGIN|START\s+TRANSACTION|ROLLBACK(?!(?:\s+WORK)?\s+TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class CountingConnection(Connection):
    """Notices the end of a transaction, whoever asked for it."""

    server_status: int  # of the last answer

    #: How many transactions were ended on it so far.
    ends = 0
    #: How many were committed by a statement that is about something else.
    implicit_commits = 0

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:  # noqa: FBT001, FBT002 -- asyncmy's signature
        """Send a statement and wait for its answer."""
        begun = self._in_transaction
        try:
            return await super().query(sql, unbuffered)  # type: ignore[no-untyped-call]  # as there
        finally:
            if begun and isinstance(sql, str) and _SAID.match(sql):
                self.ends += 1
            elif begun and not self._in_transaction:
                self.implicit_commits += 1

    async def commit(self) -> None:
        """Commit."""
        self.ends += self._in_transaction
        await super().commit()

    async def rollback(self) -> None:
        """Roll back."""
        self.ends += self._in_transaction
        await super().rollback()

    async def begin(self) -> None:
        """Begin; what was begun before is committed."""
        self.ends += self._in_transaction
        await super().begin()

    @property
    def _in_transaction(self) -> bool:
        return bool(self.server_status & SERVER_STATUS_IN_TRANS)


async def connect(**arguments: Any) -> CountingConnection:
    """Connect as `asyncmy.connect` does.

    Args:
        **arguments: For asyncmy.
    """
    connection = CountingConnection(**arguments)  # type: ignore[no-untyped-call]  # as there
    await connection.connect()
    return connection
