"""A pool entry that always returns to its pool."""

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionRecord


class Entry(_ConnectionRecord):  # private there; guarded by a test
    """A place for one connection; it returns to the pool even if its checkin fails.

    SQLAlchemy loses an entry when a step of its checkin raises, for example the reset of the
    isolation level or a `checkin` listener. A pool of ten would be unusable after ten such errors.

    Args:
        pool: The pool it belongs to.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._owner = pool
        #: True once it is back in the pool.
        self.returned = False

    def checkin(self, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Return the entry to the pool, without its connection if resetting that fails."""
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
