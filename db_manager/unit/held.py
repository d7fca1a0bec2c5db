"""What a unit holds from its first statement to its end: connection and lanes, and their guard."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.database.database import Database
from db_manager.database.open_unit import OpenUnit
from db_manager.dialects.known import dialect_of
from db_manager.engine.given_up import IS_OLD, carry_through
from db_manager.errors import (
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
)
from db_manager.lanes.core import UnitConnection
from db_manager.lanes.lane import refuse
from db_manager.lanes.session import UnitSession

#: Sends COMMIT or ROLLBACK on a pooled connection, and waits for the answer.
Send = Callable[[PoolProxiedConnection], None]

#: Attribute of a dialect that holds its guard: two engines may share a dialect.
_MARK: Final = "db_manager_guard"


class Held(ABC):
    """The connection of a unit, and the lanes on it.

    Args:
        unit: The unit it belongs to.
        database: Provides the connection.
        isolation_level: SQLAlchemy's name of the isolation level, or None for the engine's.
        options: Execution options of its connection.
    """

    __slots__ = (
        "_cuts",
        "_database",
        "_dialect",
        "_driver",
        "_ends",
        "_guard",
        "_isolation_level",
        "_options",
        "_pooled",
        "_ready",
        "_unit",
        "core",
        "listener_error",
        "session",
    )

    def __init__(
        self,
        unit: OpenUnit,
        database: Database,
        isolation_level: str | None,
        options: Mapping[str, Any],
    ) -> None:
        self._unit = unit
        self._database = database
        self._dialect = database.dialect
        self._isolation_level = isolation_level
        self._options = options
        self.session: UnitSession | None = None
        self.core: UnitConnection | None = None
        #: The error of a SQLAlchemy listener after COMMIT was answered, or while the connection
        #: was returned; it is reported and changes nothing.
        self.listener_error: BaseException | None = None
        #: The pooled connection, the driver's connection in it, and the numbers of transactions
        #: and of implicit commits that it had counted before this unit.
        self._pooled: PoolProxiedConnection | None = None
        self._driver: Any = None
        self._ends = self._cuts = 0
        self._guard: Guard
        self._ready = False

    # -- checkout -------------------------------------------------------------------------

    def connect(self) -> Connection:
        """Return the connection; the first call checks it out. Runs inside a greenlet.

        Raises:
            TransactionEndedError: The connection was lost or given up since its checkout.
            TransactionAbortedError: The checkout of an earlier use failed halfway.
        """
        unit = self._unit
        connection = unit.checked_out
        if connection is None:
            unit.check()
            connection = self.check_out()
        elif connection.invalidated:  # SQLAlchemy would reconnect and begin a new one
            raise self.mark_undone("the connection of this unit was invalidated")
        elif not self._ready:
            raise TransactionAbortedError from unit.failed
        return connection

    def check_out(self) -> Connection:
        """Check the connection out, for the first use. Runs inside a greenlet."""
        try:
            return self._check_out()
        except BaseException as error:
            self._unit.mark_failed(error)  # the block may swallow it, and lose the statement
            raise

    def _check_out(self) -> Connection:
        unit, checkout, dialect = self._unit, self._database.checkout, self._dialect
        # Held before the next wait, so that the unit's end returns it even after a cancellation.
        unit.checked_out = connection = checkout.connect(unit)
        if IS_OLD:
            carry_through(connection)
        self._pooled = pooled = connection.connection
        self._guard = getattr(connection.dialect, _MARK, None) or Guard(connection.dialect)
        self._guard.lent[pooled] = self
        adapter: Any = pooled.dbapi_connection
        self._driver = driver = connection.dialect.get_driver_connection(adapter)
        self._ends = dialect.ends(driver)
        cuts = dialect.implicit_commits(driver)
        if cuts is None:
            self._database.watch_ddl(connection.engine)
        self._cuts = cuts or 0
        if self._options:
            connection.execution_options(**self._options)
        if unit.read_only or self._isolation_level is not None:
            checkout.make_ready(connection, unit, self._isolation_level)
        if not unit.read_only and dialect.is_autocommit(adapter, driver):
            self.drop()  # earlier use may have set it for this connection only
            self.refuse("an engine in AUTOCOMMIT")
        self._ready = True
        return connection

    def has_changes(self) -> bool:
        """Return True if the session has changes that are not written yet."""
        return self.session is not None and self.session.sync_session.has_changes()

    # -- for the guard --------------------------------------------------------------------

    @abstractmethod
    def commit_by(self, send: Send) -> None:
        """Send COMMIT with *send*, or raise if the unit is not ending."""

    @abstractmethod
    def roll_back_by(self, send: Send) -> None:
        """Send ROLLBACK with *send*, and note it if the unit is not ending."""

    def went_back(self) -> None:
        """Note that ROLLBACK TO SAVEPOINT was sent and answered."""
        self._unit.went_back()

    # -- preventing the commit ------------------------------------------------------------

    def mark_undone(self, what: str) -> TransactionEndedError:
        """Note that everything so far was undone because of *what*, and return the error."""
        error = TransactionEndedError(what, undone=True)
        self._unit.mark_failed(error)
        return error

    def refuse(self, what: str) -> NoReturn:
        """Raise, because *what* is not allowed in the block of a unit.

        Raises:
            UnitOfWorkStateError: Always. Even if it is swallowed, nothing is committed.
        """
        try:
            refuse(self._unit, what)
        except UnitOfWorkStateError as error:
            self._unit.mark_failed(error)
            raise

    # -- release --------------------------------------------------------------------------

    def drop(self) -> None:
        """Close the connection instead of returning it: its state is unknown."""
        connection = self._unit.checked_out
        if connection is None or connection.closed or connection.invalidated:
            return
        try:
            connection.invalidate()
        except BaseException as error:  # noqa: BLE001 -- the outcome stands, and it is reported
            self.listener_error = self.listener_error or error

    def release(self) -> None:
        """Close the session and return the connection. Runs inside a greenlet."""
        try:
            if self.session is not None:
                Session.close(self.session.sync_session)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands
            self.listener_error = self.listener_error or error
            self.drop()
        if self._pooled is not None:
            self._guard.lent.pop(self._pooled, None)
        try:
            if self._unit.checked_out is not None:
                checkout = self._database.checkout
                checkout.give_back(self._unit.checked_out, self._driver, self._unit)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands
            self.listener_error = self.listener_error or error
            self.drop()
        self.session = self.core = self._unit.checked_out = self._pooled = self._driver = None


class Guard:
    """Replaces five methods of a dialect, all of SQLAlchemy's public interface.

    Every COMMIT and ROLLBACK that goes through SQLAlchemy passes here, directly before the driver.
    So a unit learns here what was sent and what was answered. SQLAlchemy's own state is what it
    assumes, which is wrong after a listener has raised.

    Args:
        dialect: The dialect to guard.
    """

    def __init__(self, dialect: Dialect) -> None:
        #: The transaction of each pooled connection that a unit holds.
        self.lent: dict[PoolProxiedConnection, Held] = {}
        #: Called once instead of COMMIT on a connection, for injected faults of tests.
        self.instead: dict[PoolProxiedConnection, Send] = {}
        self.send_commit: Send = dialect.do_commit
        self._is_settled = dialect_of(dialect).is_settled
        self.send_rollback: Send = dialect.do_rollback
        self._set_options = dialect.set_connection_execution_options
        self._begin_twophase = dialect.do_begin_twophase
        self._send_rollback_to = dialect.do_rollback_to_savepoint
        for name, mine in (
            ("do_commit", self.commit),
            ("do_rollback", self.roll_back),
            ("do_rollback_to_savepoint", self.roll_back_to),
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
            transaction.roll_back_by(self.send_rollback)
        elif not self._is_settled(connection):  # the pool's reset at each return
            self.send_rollback(connection)

    def roll_back_to(self, connection: Connection, name: str) -> None:
        """Send ROLLBACK TO SAVEPOINT, and tell the unit: SQLAlchemy does not always send it."""
        self._send_rollback_to(connection, name)
        transaction = self.lent.get(connection.connection)
        if transaction is not None:
            transaction.went_back()

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
