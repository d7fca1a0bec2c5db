"""The Core lane of a unit: an `AsyncConnection` that its first statement checks out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.lanes.lane import Unit, execute_core, refuse, refuse_end


class _Unconnected:
    """Stands in for the unit's connection until the first statement checks one out.

    It runs inside the greenlet of that statement, so that the checkout needs no second greenlet.

    Args:
        unit: The unit that owns the connection.
    """

    closed = invalidated = False

    def __init__(self, unit: Unit, engine: Engine) -> None:
        self._unit = unit
        self.engine = engine
        self.dialect = engine.dialect

    @property
    def default_isolation_level(self) -> Any:
        # The dialect reads it from the engine's first connection.
        return getattr(self.dialect, "default_isolation_level", None)

    @property
    def info(self) -> Any:
        raise InvalidRequestError("the unit has no connection before its first statement")

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return self._unit.connect().execute(*args, **kwargs)

    def exec_driver_sql(self, *args: Any, **kwargs: Any) -> Any:
        return self._unit.connect().exec_driver_sql(*args, **kwargs)

    @property
    def connection(self) -> Any:
        return self._unit.connect().connection

    def in_transaction(self) -> bool:
        return False

    in_nested_transaction = in_transaction

    def get_transaction(self) -> None:
        return None

    get_nested_transaction = get_transaction

    def get_isolation_level(self) -> Any:
        return self._unit.connect().get_isolation_level()

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        self._unit.connect().invalidate(*args, **kwargs)


class UnitConnection(AsyncConnection):
    """The Core connection of a unit of work, checked out by its first statement.

    Args:
        engine: The engine of the unit.
        unit: The unit that owns it.
    """

    __slots__ = ("_unconnected", "_unit")

    def __init__(self, engine: AsyncEngine, unit: Unit) -> None:
        self._unit = unit
        self._unconnected = _Unconnected(unit, engine.sync_engine)
        super().__init__(engine)

    @property
    def sync_connection(self) -> Any:
        """SQLAlchemy's connection; every use of this object goes through here."""
        self._unit.check()
        return self._unit.checked_out or self._unconnected

    @sync_connection.setter
    def sync_connection(self, _value: object) -> None:
        """Ignore what the base class sets: the connection is the unit's."""

    if not TYPE_CHECKING:  # its many signatures are SQLAlchemy's

        async def execute(
            self, statement: Any, parameters: Any = None, *, execution_options: Any = None
        ) -> Any:
            """Execute *statement*."""
            unit = self._unit
            unit.check()
            unit.statement = statement
            return await unit.runner.run(
                execute_core, unit, statement, parameters, execution_options, "AsyncConnection"
            )

        async def exec_driver_sql(self, statement: str, *args: Any, **kwargs: Any) -> Any:
            """Execute SQL in the driver's own parameter style."""
            refuse_end(self._unit, statement)
            return await super().exec_driver_sql(statement, *args, **kwargs)

        def stream(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
            """Execute *statement* and read its rows one by one."""
            refuse_end(self._unit, statement)
            return super().stream(statement, *args, **kwargs)

    async def get_raw_connection(self) -> PoolProxiedConnection:
        """Return the pooled connection, after beginning the transaction."""
        await self._unit.driver()
        return await super().get_raw_connection()

    async def run_sync(self, fn: Callable[..., Any], *arg: Any, **kw: Any) -> Any:
        """Run a function that takes SQLAlchemy's synchronous connection."""
        self._unit.check()
        return await self._unit.runner.run(lambda: fn(self._unit.connect(), *arg, **kw))

    async def execution_options(self, **opt: Any) -> Self:
        """Set options for later statements on every lane of the unit."""
        await self.run_sync(Connection.execution_options, **opt)
        return self

    def begin(self) -> NoReturn:
        """Refuse: the unit has begun."""
        refuse(self._unit, "connection.begin()")

    def begin_nested(self) -> NoReturn:
        """Refuse: a savepoint belongs to the unit."""
        refuse(self._unit, "connection.begin_nested()")

    async def commit(self) -> NoReturn:
        """Refuse: the unit commits."""
        refuse(self._unit, "connection.commit()")

    async def rollback(self) -> NoReturn:
        """Refuse: the unit rolls back."""
        refuse(self._unit, "connection.rollback()")

    async def close(self) -> NoReturn:
        """Refuse: the unit closes."""
        refuse(self._unit, "connection.close()")
