"""Intercepts COMMIT and ROLLBACK at SQLAlchemy's dialect: only the unit ends its transaction."""

from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol

from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.dialects.known import dialect_of

#: Sends COMMIT or ROLLBACK on a pooled connection, and waits for the answer.
Send = Callable[[PoolProxiedConnection], None]

#: Attribute of a dialect that holds its guard: two engines may share a dialect.
_MARK: Final = "db_manager_guard"


class Guarded(Protocol):
    """The transaction of a unit, as the guard sees it."""

    __slots__ = ()

    def commit_by(self, send: Send) -> None:
        """Send COMMIT with *send*, or raise if the unit is not ending."""

    def roll_back_by(self, send: Send) -> None:
        """Send ROLLBACK with *send*, and note it if the unit is not ending."""

    def refuse(self, what: str) -> NoReturn:
        """Raise: *what* would leave the unit nothing to roll back."""


class Guard:
    """Replaces four methods of a dialect, all of SQLAlchemy's public interface.

    Every COMMIT and ROLLBACK that goes through SQLAlchemy passes here, directly before the driver.
    So a unit learns here what was sent and what was answered. SQLAlchemy's own state is what it
    assumes, which is wrong after a listener has raised.

    Args:
        dialect: The dialect to guard.
    """

    def __init__(self, dialect: Dialect) -> None:
        #: The transaction of each pooled connection that a unit holds.
        self.lent: dict[PoolProxiedConnection, Guarded] = {}
        #: Called once instead of COMMIT on a connection, for injected faults of tests.
        self.instead: dict[PoolProxiedConnection, Send] = {}
        self.send_commit: Send = dialect.do_commit
        self._is_settled = dialect_of(dialect).is_settled
        self._rollback = dialect.do_rollback
        self._set_options = dialect.set_connection_execution_options
        self._begin_twophase = dialect.do_begin_twophase
        for name, mine in (
            ("do_commit", self.commit),
            ("do_rollback", self.roll_back),
            ("set_connection_execution_options", self.set_options),
            ("do_begin_twophase", self.begin_twophase),
            (_MARK, self),
        ):
            setattr(dialect, name, mine)

    @classmethod
    def of(cls, dialect: Dialect) -> "Guard":
        """Return the guard of *dialect*; it is installed at the first call."""
        known: Guard | None = getattr(dialect, _MARK, None)
        return known if known is not None else cls(dialect)

    def commit(self, connection: PoolProxiedConnection) -> None:
        """Send COMMIT, if no unit holds *connection* or the unit is ending.

        Raises:
            UnitOfWorkStateError: Code in the block of the unit tried to commit.
        """
        transaction = self.lent.get(connection)
        send = self._send if self.instead else self.send_commit
        if transaction is None:
            send(connection)
        else:
            transaction.commit_by(send)

    def _send(self, connection: PoolProxiedConnection) -> None:
        # Taken only now, so that a refused COMMIT does not use up the fault.
        send = self.instead.pop(connection, None) if self.instead else None
        (send or self.send_commit)(connection)

    def roll_back(self, connection: PoolProxiedConnection) -> None:
        """Send ROLLBACK, which SQLAlchemy also does during a unit, after a failed flush."""
        transaction = self.lent.get(connection)
        if transaction is not None:
            transaction.roll_back_by(self._rollback)
        elif not self._is_settled(connection):  # the pool's reset at each return
            self._rollback(connection)

    def set_options(self, connection: Connection, opts: Any) -> None:
        """Set options of a connection, but refuse AUTOCOMMIT on that of a unit.

        Raises:
            UnitOfWorkStateError: AUTOCOMMIT was requested on the connection of a unit.
        """
        if str(opts.get("isolation_level", "")).upper() == "AUTOCOMMIT":
            self._refuse(connection, 'isolation_level="AUTOCOMMIT"')
        self._set_options(connection, opts)

    def begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Begin a two-phase transaction, but refuse it on the connection of a unit.

        Raises:
            UnitOfWorkStateError: A unit holds the connection.
        """
        self._refuse(connection, "connection.begin_twophase()")
        self._begin_twophase(connection, xid)

    def _refuse(self, connection: Connection, what: str) -> None:
        transaction = self.lent.get(connection.connection)
        if transaction is not None:
            transaction.refuse(what)
