"""The lanes of a unit: an ORM session and a Core connection that end only with their unit."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import greenlet_spawn

from db_manager.errors import UnitOfWorkStateError


class Unit(Protocol):
    """What a lane needs of its unit."""

    #: The last statement, for people who ask what the unit is doing.
    statement: object

    @property
    def state(self) -> str:
        """Where the unit is in its life."""

    @property
    def checked_out(self) -> Connection | None:
        """The unit's connection, when it has one already."""

    def check(self) -> None:
        """Raise unless the unit is active and the running task owns it."""

    def connect(self) -> Connection:
        """Return the unit's connection, checked out now when it is the first use."""

    def savepoint_made(self, savepoint: object) -> None:
        """Remember what was before *savepoint*."""

    def savepoint_undone(self, savepoint: object) -> None:
        """Forget what was since *savepoint*."""


def _refuse(unit: Unit, what: str) -> NoReturn:
    raise UnitOfWorkStateError(
        unit.state,
        f"{what} is not for the block",
        "it commits at the end of its block; raise or `await uow.rollback()` to undo it, "
        "and use `async with uow.savepoint():` for a part",
    )


class SyncUnitSession(Session):
    """The session below `UnitSession`: every way to the database asks the unit first."""

    unit: Unit

    def get_bind(self, *_args: Any, **_kwargs: Any) -> Connection:
        """Return the one connection of the unit."""
        return self.unit.connect()

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute, when the unit allows it."""
        self.unit.check()
        self.unit.statement = statement
        return super().execute(statement, *args, **kwargs)

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute and return one value, when the unit allows it."""
        self.unit.check()
        self.unit.statement = statement
        return super().scalar(statement, *args, **kwargs)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute and return the first values, when the unit allows it."""
        self.unit.check()
        self.unit.statement = statement
        return super().scalars(statement, *args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Return an object by its key, when the unit allows it."""
        self.unit.check()
        return super().get(*args, **kwargs)

    def flush(self, objects: Any = None) -> None:
        """Write pending changes, when the unit allows it."""
        if self.unit.state == "active":
            self.unit.check()
        super().flush(objects)

    def commit(self) -> None:
        """Refuse: the unit commits."""
        _refuse(self.unit, "session.commit()")

    def rollback(self) -> None:
        """Refuse: the unit rolls back."""
        _refuse(self.unit, "session.rollback()")

    def close(self) -> None:
        """Refuse: the unit closes."""
        _refuse(self.unit, "session.close()")

    def begin(self, nested: bool = False) -> SessionTransaction:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Begin a savepoint; refuse to begin anything else: the unit has begun."""
        if not nested:
            _refuse(self.unit, "session.begin()")
        savepoint = super().begin(nested=True)
        # The other lanes are in it from here on; SQLAlchemy would send it with the session's own
        # next statement.
        self.connection()
        self.unit.savepoint_made(savepoint)
        return savepoint


@event.listens_for(SyncUnitSession, "after_soft_rollback")
def _undo_savepoint(session: SyncUnitSession, ended: SessionTransaction) -> None:
    if ended.nested:
        session.unit.savepoint_undone(ended)


class UnitSession(AsyncSession):
    """The ORM session of a unit of work: an `AsyncSession` that cannot end the transaction.

    Args:
        unit: The unit that owns it.
    """

    sync_session_class = SyncUnitSession
    sync_session: SyncUnitSession

    def __init__(self, unit: Unit) -> None:
        # An object read in a unit stays readable after its commit; a session that is closed
        # stays closed instead of beginning a transaction that nobody ends.
        super().__init__(
            expire_on_commit=False,
            close_resets_only=False,
            join_transaction_mode="control_fully",  # whichever lane began, the session commits
        )
        self.sync_session.unit = unit

    async def __aenter__(self) -> NoReturn:
        """Refuse: the unit is the block."""
        _refuse(self.sync_session.unit, "`async with session`")

    def begin(self) -> NoReturn:
        """Refuse: the unit has begun."""
        _refuse(self.sync_session.unit, "session.begin()")

    async def commit(self) -> NoReturn:
        """Refuse: the unit commits."""
        _refuse(self.sync_session.unit, "session.commit()")

    async def rollback(self) -> NoReturn:
        """Refuse: the unit rolls back."""
        _refuse(self.sync_session.unit, "session.rollback()")

    async def close(self) -> NoReturn:
        """Refuse: the unit closes."""
        _refuse(self.sync_session.unit, "session.close()")


class _Unconnected:
    """Stands for the unit's connection until its first statement checks one out.

    It runs inside the greenlet of that statement, so that the checkout costs no greenlet of its
    own.

    Args:
        unit: The unit that owns the connection.
    """

    closed = invalidated = False

    def __init__(self, unit: Unit, dialect: Dialect) -> None:
        self._unit = unit
        self.dialect = dialect

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
    """The Core connection of a unit of work: checked out by its first statement.

    Args:
        engine: The engine of the unit.
        unit: The unit that owns it.
    """

    __slots__ = ("_unconnected", "_unit")

    def __init__(self, engine: AsyncEngine, unit: Unit) -> None:
        self._unit = unit
        self._unconnected = _Unconnected(unit, engine.dialect)
        super().__init__(engine)

    @property
    def sync_connection(self) -> Any:
        """SQLAlchemy's connection; every use of this object comes through here."""
        self._unit.check()
        return self._unit.checked_out or self._unconnected

    @sync_connection.setter
    def sync_connection(self, _value: object) -> None:
        """Ignore what the base class sets: the connection is the unit's."""

    if not TYPE_CHECKING:  # its many signatures are SQLAlchemy's

        def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
            """Execute, and remember what for people who ask."""
            self._unit.statement = statement
            return super().execute(statement, *args, **kwargs)

    async def run_sync(self, fn: Callable[..., Any], *arg: Any, **kw: Any) -> Any:
        """Run a function that takes SQLAlchemy's synchronous connection."""
        self._unit.check()
        return await greenlet_spawn(lambda: fn(self._unit.connect(), *arg, **kw))

    async def execution_options(self, **opt: Any) -> Self:
        """Set options for the statements that follow, on every lane of the unit."""
        await self.run_sync(Connection.execution_options, **opt)
        return self

    def begin(self) -> NoReturn:
        """Refuse: the unit has begun."""
        _refuse(self._unit, "connection.begin()")

    def begin_nested(self) -> NoReturn:
        """Refuse: a savepoint belongs to the unit."""
        _refuse(self._unit, "connection.begin_nested()")

    async def commit(self) -> NoReturn:
        """Refuse: the unit commits."""
        _refuse(self._unit, "connection.commit()")

    async def rollback(self) -> NoReturn:
        """Refuse: the unit rolls back."""
        _refuse(self._unit, "connection.rollback()")

    async def close(self) -> NoReturn:
        """Refuse: the unit closes."""
        _refuse(self._unit, "connection.close()")
