"""The driver's lane of a unit: what it borrows of the driver's connection, and puts back."""

from contextlib import suppress
from typing import Any

from db_manager.unit.held import Held


class Driven(Held):
    """What a unit holds, with the driver's lane."""

    __slots__ = ("_factories", "drove")

    # Transaction, the class of every unit, sets both: a second constructor would be one more call.
    _factories: dict[str, Any]
    #: Whether the block had the driver's connection.
    drove: bool

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
