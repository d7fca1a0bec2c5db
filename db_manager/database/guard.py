"""Stands before the dialect of an engine: the transaction of a unit ends with its unit only."""

from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol

from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.dialects.known import dialect_of

#: Sends COMMIT or ROLLBACK on a pooled connection, and waits for the answer.
Send = Callable[[PoolProxiedConnection], None]

#: Name under which a dialect knows its guard: two engines may share a dialect.
_MARK: Final = "db_manager_guard"


class Guarded(Protocol):
    """What the guard asks of the transaction of a unit."""

    __slots__ = ()

    def commit_by(self, send: Send) -> None:
        """Send COMMIT by *send*, or raise because it is not the unit that ends."""

    def roll_back_by(self, send: Send) -> None:
        """Send ROLLBACK by *send*, and remember it when it is not the unit that ends."""

    def refuse(self, what: str) -> NoReturn:
        """Raise: *what* would leave the unit nothing to roll back."""


class Guard:
    """Takes the place of four methods of one dialect, all of SQLAlchemy's public interface.

    Whatever way COMMIT and ROLLBACK take through SQLAlchemy, they arrive here, and nothing is
    between here and the driver. So here a unit learns what was sent and what was answered;
    SQLAlchemy's own books tell what it believes, also after a listener has raised.

    Args:
        dialect: The dialect of an engine, guarded from now on.
    """

    def __init__(self, dialect: Dialect) -> None:
        #: The transaction of each pooled connection that a unit has.
        self.lent: dict[PoolProxiedConnection, Guarded] = {}
        #: What is done once in the place of COMMIT on a connection: for faults of tests.
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
        """Return the guard of *dialect*, posted now if there is none yet."""
        known: Guard | None = getattr(dialect, _MARK, None)
        return known if known is not None else cls(dialect)

    def commit(self, connection: PoolProxiedConnection) -> None:
        """Send COMMIT, if no unit has *connection* or it is the unit that ends.

        Raises:
            UnitOfWorkStateError: The block of the unit tried.
        """
        transaction = self.lent.get(connection)
        if transaction is None:
            self._send(connection)
        else:
            transaction.commit_by(self._send)

    def _send(self, connection: PoolProxiedConnection) -> None:
        # Asked only now: a COMMIT that was refused has used up no fault.
        send = self.instead.pop(connection, None) if self.instead else None
        (send or self.send_commit)(connection)

    def roll_back(self, connection: PoolProxiedConnection) -> None:
        """Send ROLLBACK; SQLAlchemy does so in the middle of a unit after a failed flush."""
        transaction = self.lent.get(connection)
        if transaction is not None:
            transaction.roll_back_by(self._rollback)
        elif not self._is_settled(connection.driver_connection):  # the pool's, at each return
            self._rollback(connection)

    def set_options(self, connection: Connection, opts: Any) -> None:
        """Set options of a connection, but never leave a unit without a transaction.

        Raises:
            UnitOfWorkStateError: A unit's connection was to become AUTOCOMMIT.
        """
        if str(opts.get("isolation_level", "")).upper() == "AUTOCOMMIT":
            self._refuse(connection, 'isolation_level="AUTOCOMMIT"')
        self._set_options(connection, opts)

    def begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Begin a transaction in two phases, but not in the place of that of a unit.

        Raises:
            UnitOfWorkStateError: A unit has the connection.
        """
        self._refuse(connection, "connection.begin_twophase()")
        self._begin_twophase(connection, xid)

    def _refuse(self, connection: Connection, what: str) -> None:
        transaction = self.lent.get(connection.connection)
        if transaction is not None:
            transaction.refuse(what)
