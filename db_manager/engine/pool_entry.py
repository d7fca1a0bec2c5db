"""An entry of a connection pool that is never lost."""

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionRecord


class Entry(_ConnectionRecord):  # private there; guarded by a test
    """A place for one connection, which the pool gets back whatever its return runs into.

    SQLAlchemy forgets an entry when a step of its return raises: what resets an isolation level,
    or a listener of `checkin`. Ten times, and a pool of ten serves nobody any more.

    Args:
        pool: The pool it belongs to.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._owner = pool
        #: True once the pool has it back.
        self.returned = False

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Give the entry back, without its connection when that cannot be made clean."""
        self.returned = False
        try:
            super().checkin(_fairy_was_created)
        except BaseException as error:
            if not self.returned:
                try:
                    self.invalidate(error)
                finally:
                    self._owner._return_conn(self)  # noqa: SLF001 -- the last step of SQLAlchemy's checkin
            raise
