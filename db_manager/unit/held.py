"""What a unit has of the database, from its first statement to its end."""

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
    """The connection of a unit, the lanes that lead to it, and what was done on them.

    Args:
        unit: The unit it belongs to.
        database: Where connections come from.
        isolation_level: As SQLAlchemy names it, or None for the engine's own.
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
        #: What a listener of SQLAlchemy's raised after COMMIT had been answered, or while the
        #: connection was given back; it is reported and changes nothing.
        self.listener_error: BaseException | None = None
        #: The connection below SQLAlchemy's, that of the driver below it, and how many
        #: transactions had ended on it before: by COMMIT or ROLLBACK, and by the way.
        self._pooled: PoolProxiedConnection | None = None
        self._driver: Any = None
        self._ends = self._cuts = 0
        self._lent: dict[PoolProxiedConnection, Guarded] = {}
        self._factories: dict[str, Any] = {}
        self._ready = self.drove = False

    # -- on the way to the database -------------------------------------------------------

    def connect(self) -> Connection:
        """Return the connection, checked out now when it is the first use; in a greenlet."""
        unit = self._unit
        connection = unit.checked_out
        if connection is None:
            unit.check()
            try:
                connection = self._check_out()
            except BaseException as error:
                unit.mark_failed(error)  # the block may swallow it, and lose the statement
                raise
        elif connection.invalidated:  # SQLAlchemy would connect again and begin anew
            raise self.mark_undone("the connection of this unit was given up")
        elif not self._ready:
            raise TransactionAbortedError from unit.failed
        return connection

    def _check_out(self) -> Connection:
        unit, checkout, dialect = self._unit, self._database.checkout, self._dialect
        # Held before anything else is waited for: a cancellation leaves it to the unit's end.
        unit.checked_out = connection = checkout.connect(unit)
        self._pooled = pooled = connection.connection
        self._lent = Guard.of(connection.dialect).lent
        self._lent[pooled] = self
        self._driver = driver = pooled.driver_connection
        self._ends = dialect.ends(driver)
        cuts = dialect.implicit_commits(driver)
        if cuts is None:
            self._database.watch_ddl(connection.engine)
        self._cuts = cuts or 0
        if self._options:
            connection.execution_options(**self._options)
        checkout.make_ready(connection, unit, self._isolation_level)
        if not unit.read_only and dialect.is_autocommit(pooled):
            self.drop()  # it may be this connection's alone, from an earlier use
            self.refuse("an engine in AUTOCOMMIT")
        self._ready = True
        return connection

    def drive(self) -> object:
        """Return the driver's connection, with the transaction begun; in a greenlet."""
        self.drove = True
        connection = self.connect()
        try:
            self._factories = self._factories or self._dialect.factories_of(self._driver)
            return self._dialect.begin(connection)
        except BaseException as error:
            # Whether BEGIN reached the server is unknown. asyncpg would take the next unit's
            # transaction for a nested one, and its COMMIT would be a RELEASE: rows lost.
            self._unit.mark_failed(error)
            self.drop()
            raise

    def undrive(self) -> None:
        """Let the connection make rows as it did before the block had the driver."""
        if self._factories:
            with suppress(ValueError):  # it is closed
                self._dialect.put_back(self._driver, self._factories)

    # -- what must not be committed any more ----------------------------------------------

    def mark_undone(self, what: str) -> TransactionEndedError:
        """Remember that everything so far is undone because of *what*, and return the error."""
        error = TransactionEndedError(what, undone=True)
        self._unit.mark_failed(error)
        return error

    def refuse(self, what: str) -> NoReturn:
        """Raise: *what* is not for the block of a unit.

        Raises:
            UnitOfWorkStateError: Always; swallowed, it lets nothing be committed.
        """
        try:
            refuse(self._unit, what)
        except UnitOfWorkStateError as error:
            self._unit.mark_failed(error)
            raise

    # -- letting go -----------------------------------------------------------------------

    def drop(self) -> None:
        """Close the connection instead of giving it back: nobody knows what is open on it."""
        connection = self._unit.checked_out
        if connection is None or connection.closed or connection.invalidated:
            return
        try:
            connection.invalidate()
        except BaseException as error:  # noqa: BLE001 -- the outcome stands, and it is reported
            self.listener_error = self.listener_error or error

    def release(self) -> None:
        """Close the session and give the connection back; in a greenlet."""
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
                self._database.checkout.give_back(self._unit.checked_out)
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
        self._stop_guarding()
        self.session = self.core = unit.checked_out = self._driver = None

    def hang_up(self) -> None:
        """Drop the line without a word; outside of a greenlet, so nobody waits."""
        connection = self._unit.checked_out
        try:
            if connection is not None:
                self._database.checkout.forget(connection)
                if not (connection.closed or connection.invalidated):
                    self._dialect.hang_up(connection)
        except BaseException as error:  # noqa: BLE001 -- the outcome stands, and it is reported
            self.listener_error = self.listener_error or error
        finally:
            self._let_go()
