"""The connection and the lanes that a unit holds from its first statement to its end."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.database.database import Database
from db_manager.database.guard import Guard, Guarded
from db_manager.database.open_unit import OpenUnit
from db_manager.errors import (
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
)
from db_manager.lanes.core import UnitConnection
from db_manager.lanes.lane import refuse
from db_manager.lanes.session import UnitSession


class Held(Guarded):
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
        "_factories",
        "_isolation_level",
        "_lent",
        "_options",
        "_pooled",
        "_ready",
        "_unit",
        "core",
        "drove",
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
        self._lent: dict[PoolProxiedConnection, Guarded] = {}
        self._factories: dict[str, Any] = {}
        self._ready = self.drove = False

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
            try:
                connection = self._check_out()
            except BaseException as error:
                unit.mark_failed(error)  # the block may swallow it, and lose the statement
                raise
        elif connection.invalidated:  # SQLAlchemy would reconnect and begin a new one
            raise self.mark_undone("the connection of this unit was invalidated")
        elif not self._ready:
            raise TransactionAbortedError from unit.failed
        return connection

    def _check_out(self) -> Connection:
        unit, checkout, dialect = self._unit, self._database.checkout, self._dialect
        # Held before the next wait, so that the unit's end returns it even after a cancellation.
        unit.checked_out = connection = checkout.connect(unit)
        self._pooled = pooled = connection.connection
        self._lent = Guard.of(connection.dialect).lent
        self._lent[pooled] = self
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

    def drive(self) -> Any:
        """Return the driver's connection, with the transaction begun. Runs inside a greenlet."""
        self.drove = True
        connection = self.connect()
        try:
            self._factories = self._factories or self._dialect.factories_of(self._driver)
            if not connection.in_transaction():
                connection.begin()
            self._dialect.begin(connection, connection.connection.dbapi_connection, self._driver)
        except BaseException as error:
            # Whether BEGIN reached the server is unknown. asyncpg would treat the next unit's
            # transaction as nested, and send RELEASE for its COMMIT: rows would be lost.
            self._unit.mark_failed(error)
            self.drop()
            raise
        return self._driver

    def undrive(self) -> None:
        """Restore the factories of the driver's connection that the block may have replaced."""
        if self._factories:
            with suppress(ValueError):  # it is closed
                self._dialect.put_back(self._driver, self._factories)

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
        if self._driver is not None and self._dialect.is_half_done(self._driver):
            self.drop()
        self._stop_guarding()
        try:
            if self._unit.checked_out is not None:
                self._database.checkout.give_back(self._unit.checked_out, self._driver)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands
            self.listener_error = self.listener_error or error
            self.drop()
        self._let_go()

    def _stop_guarding(self) -> None:
        if self._pooled is not None:
            self._lent.pop(self._pooled, None)
            self._pooled = None

    def _let_go(self) -> None:
        unit = self._unit
        if unit.holds_writer:
            unit.holds_writer = False
            self._database.checkout.free_writer()
        self.session = self.core = unit.checked_out = self._driver = None

    def hang_up(self) -> None:
        """Drop the connection without contacting the server. Runs outside a greenlet, no wait."""
        connection = self._unit.checked_out
        try:
            if connection is not None:
                self._database.checkout.forget(connection)
                if not (connection.closed or connection.invalidated):
                    self._dialect.hang_up(connection)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands, and it is reported
            self.listener_error = self.listener_error or error
        finally:
            self._stop_guarding()
            self._let_go()
