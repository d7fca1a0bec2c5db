"""Places of the pool that are free, and connections that are closed, whatever fails meanwhile.

SQLAlchemy keeps a connection whose `invalidate` listener raises. Before 2.0.55 it also loses a
place when an invalidation is cut short, after which the `Connection` takes itself for whole and has
nothing below it; and it leaves a connection open whose `connect` listener raises.
"""

from functools import partial
from typing import Any, Final
from weakref import ref

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.pool import Pool

from db_manager.engine.pool import Entry, FairQueuePool

#: Whether SQLAlchemy may be as old.
IS_OLD: Final = sqlalchemy.__version__.startswith("2.0.")


class SureEntry(Entry):
    """A place that is free again after each of these.

    Args:
        pool: The pool it belongs to.
    """

    def __init__(self, pool: Pool) -> None:
        try:
            super().__init__(pool)
        except BaseException:
            self._drop()
            raise

    def _checkin_failed(self, err: BaseException, _fairy_was_created: bool = True) -> None:  # noqa: FBT001, FBT002 -- as above
        try:
            self.invalidate(err)
        finally:
            if self.fairy_ref is not None or not _fairy_was_created:
                self.checkin(_fairy_was_created)

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:  # noqa: FBT001, FBT002 -- as above
        """Close the connection, and be free afterwards even if that is cut short.

        Args:
            e: Why.
            soft: Only replace it at its next checkout.
        """
        whole = False
        try:
            super().invalidate(e, soft)
            # SQLAlchemy goes on with the checkin, except after the cancellation of a reset.
            whole = soft or e is None or isinstance(e, Exception)
        finally:
            if not whole:
                self._let_go()

    def _let_go(self) -> None:
        holder: Any = self.fairy_ref() if self.fairy_ref is not None else None
        try:
            self._drop()
        finally:
            if holder is not None:
                holder.dbapi_connection = None
                holder._checkin()  # noqa: SLF001 -- does nothing where SQLAlchemy has done it

    def _drop(self) -> None:
        connection, self.dbapi_connection = self.dbapi_connection, None
        if connection is not None:
            self.owner._close_connection(connection, terminate=True)  # noqa: SLF001 -- as SQLAlchemy closes one


class SurePool(FairQueuePool):
    """A pool of such places."""

    entry = SureEntry


def carry_through(connection: Connection) -> None:
    """Let *connection* know that it was given up, also when that was cut short."""
    subject: Any = connection
    subject.invalidate = partial(_invalidate, ref(connection))  # without a cycle


def _invalidate(connection: "ref[Connection]", exception: BaseException | None = None) -> None:
    subject: Any = connection()
    try:
        Connection.invalidate(subject, exception)
    finally:
        subject._dbapi_connection = None  # noqa: SLF001 -- as later releases do
