"""The ORM lane of a unit: an `AsyncSession` that ends only with its unit."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.schema import DefaultGenerator
from sqlalchemy.util import EMPTY_DICT, immutabledict
from sqlalchemy.util.concurrency import in_greenlet

from db_manager.database.open_unit import ACTIVE
from db_manager.lanes.by_key import KEYS, by_key
from db_manager.lanes.heard import ASKED, SharedRecord, shared_record
from db_manager.lanes.lane import Unit, execute_core, refuse, refuse_end, refuse_stream

#: The option with which an `AsyncSession` asks for all rows.
_WHOLE: Final = immutabledict({"prebuffer_rows": True})


class SyncUnitSession(Session):
    """The synchronous session of `UnitSession`; it checks the unit before each use."""

    unit: Unit
    #: True when all is written and nothing but COMMIT is left to do.
    flushed = False

    def takes_part(self) -> bool:
        """Return True when the session has changes, savepoints or listeners."""
        return self.in_transaction() or self.is_heard()

    def is_heard(self) -> bool:
        """Return True when somebody listens to how it begins or ends."""
        told = self.dispatch
        if isinstance(told, SharedRecord):
            return any(told.asked)
        return any(getattr(told, name) for name in ASKED)

    def has_changes(self) -> bool:
        """Return True when something is not written yet."""
        is_clean = getattr(self, "_is_clean", None)  # guarded by a test
        # The public names make a set each.
        return not is_clean() if is_clean else bool(self.new or self.deleted or self.dirty)

    def finish(self) -> None:
        """Write what is pending; commit as well if listeners or savepoints need that."""
        if not self.is_heard() and not self.in_nested_transaction():
            self.flush()
            self.flushed = not self.has_changes()  # a listener of a mapper may have made some
        if not self.flushed:
            if self.unit.checked_out is not None:
                self.connection()  # else its after_commit precedes another lane's COMMIT
            super().commit()  # flushes until nothing is pending

    def is_flushing(self) -> bool:
        """Return True while it writes what is pending: a COMMIT then comes from a listener."""
        root = self.get_transaction()
        return root is not None and root.is_active

    def passes_on(self, statement: Any) -> bool:
        """Return True if the session would only pass *statement* on to the connection.

        Then it is a statement of SQLAlchemy Core, and the session has nothing to flush before it.
        """
        marks = getattr(statement, "_propagate_attrs", None)  # guarded by a test
        return (
            marks is not None
            and marks.get("compile_state_plugin") != "orm"
            and not statement.get_execution_options()
            and not self.takes_part()
        )

    def get_bind(self, *_args: Any, **_kwargs: Any) -> Connection | Engine:
        """Return the unit's connection; its engine outside a greenlet, before the checkout."""
        unit = self.unit
        connection = unit.checked_out
        if connection is None and not in_greenlet():
            return unit.engine.sync_engine
        if unit.task is not asyncio.current_task() or unit.state is not ACTIVE:
            unit.check()  # raises
        if connection is None or connection.invalidated or unit.failed is not None:
            return unit.connect()
        return connection

    def _connection_for_bind(self, engine: Any, *args: Any, **kwargs: Any) -> Connection:
        """Return the unit's connection, without a transaction of the session if that has no part.

        SQLAlchemy begins one at the first change, which must be undone if it is rolled back; here
        it need not begin with what is only read. Guarded by a test.
        """
        if isinstance(engine, Connection) and not (args or kwargs or self.takes_part()):
            return engine
        return super()._connection_for_bind(engine, *args, **kwargs)

    def undo(self) -> None:
        """Roll back; what was read is read again, as in any session."""
        if self.identity_map and not self.in_transaction():
            super().begin()
        super().rollback()

    def _begin_statement(self, statement: Any) -> None:
        self.unit.check()
        refuse_end(self.unit, statement)
        self.unit.statement = statement
        if not (self.in_transaction() or getattr(statement, "is_select", False)):
            super().begin()  # it may change objects

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute, if the unit is active."""
        self._begin_statement(statement)
        return super().execute(statement, *args, **kwargs)

    def execute_whole(self, statement: Any, params: Any, options: Any, others: Any) -> Any:
        """Execute for an `AsyncSession`, which waits for all rows; runs inside a greenlet."""
        options = immutabledict(options).union(_WHOLE) if options else _WHOLE
        result = self.execute(statement, params, execution_options=options, **others)
        refuse_stream(result, "AsyncSession")
        return result

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute and return one value, if the unit is active."""
        self._begin_statement(statement)
        return super().scalar(statement, *args, **kwargs)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute and return the first values, if the unit is active."""
        self._begin_statement(statement)
        return super().scalars(statement, *args, **kwargs)

    def get(self, entity: Any, ident: Any, **others: Any) -> Any:
        """Return an object by its key, if the unit is active."""
        self.unit.check()
        known = None
        if type(ident) in KEYS and not others and isinstance(entity, type):
            known = by_key(entity)
        if known is None or known.key(ident) in self.identity_map:
            return super().get(entity, ident, **others)
        statement, options = known.statement, known.options
        self.unit.statement = statement
        found = super().execute(statement, {known.parameter: ident}, execution_options=options)
        return next(iter(found.unique().scalars().all()), None)  # one key, one object

    def commit(self) -> None:
        """Refuse: the unit commits."""
        refuse(self.unit, "session.commit()")

    def rollback(self) -> None:
        """Refuse: the unit rolls back."""
        refuse(self.unit, "session.rollback()")

    def close(self) -> None:
        """Refuse while the unit is open: it closes the session itself."""
        if self.unit.state == "active":
            refuse(self.unit, "session.close()")
        super().close()

    def invalidate(self) -> None:
        """Refuse: the unit itself notices a broken connection."""
        refuse(self.unit, "session.invalidate()")

    def reset(self) -> None:
        """Refuse: the unit closes."""
        refuse(self.unit, "session.reset()")

    def begin(self, nested: bool = False) -> SessionTransaction:  # noqa: FBT001, FBT002 -- SQLAlchemy's signature
        """Begin a savepoint; refuse to begin anything else: the unit has begun."""
        if not nested:
            refuse(self.unit, "session.begin()")
        self.unit.need_transaction("a savepoint")
        savepoint = super().begin(nested=True)
        try:
            # Send SAVEPOINT now, so that the other lanes are inside it; SQLAlchemy would wait for
            # the session's next statement.
            self.connection()
        except BaseException:
            savepoint.rollback()  # else the next statement would begin it, and nobody end it
            raise
        self.unit.savepoint_made(savepoint)
        return savepoint


@event.listens_for(SyncUnitSession, "after_soft_rollback")
def _undo_savepoint(session: SyncUnitSession, ended: SessionTransaction) -> None:
    if ended.nested:
        session.unit.savepoint_undone(ended)


#: Where a session keeps its engine: SQLAlchemy 2.1 has a property before it.
_BIND: Final = "_async_bind" if hasattr(AsyncSession, "bind") else "bind"


class LaneSession(AsyncSession):
    """An `AsyncSession` on the connection of a unit.

    Args:
        unit: The unit that owns it.
    """

    sync_session_class = SyncUnitSession
    sync_session: SyncUnitSession

    def __init__(self, unit: Unit) -> None:
        # Objects read in a unit stay readable after its commit. A closed session stays closed
        # instead of beginning a transaction that the unit does not end.
        super().__init__(
            expire_on_commit=False,
            close_resets_only=False,
            join_transaction_mode="control_fully",  # the session commits, whichever lane began
        )
        # As the base class does, which asks an abstract class first; guarded by a test.
        engine = unit.engine
        setattr(self, _BIND, engine)
        self.sync_session.bind = engine.sync_engine
        self.sync_session.unit = unit
        record = shared_record(type(self.sync_session))  # type: ignore[arg-type]  # mypy asks the class for the __hash__ of its objects
        if record is not None:
            self.sync_session.dispatch = record

    if not TYPE_CHECKING:  # its many signatures are SQLAlchemy's

        async def execute(
            self,
            statement: Any,
            params: Any = None,
            *,
            execution_options: Any = EMPTY_DICT,
            **others: Any,
        ) -> Any:
            """Execute *statement*; a Core statement goes directly to the connection."""
            session = self.sync_session
            unit = session.unit
            unit.check()
            if (others and any(others.values())) or not session.passes_on(statement):
                return await unit.runner.run(
                    session.execute_whole, statement, params, execution_options, others
                )
            unit.statement = statement
            return await unit.runner.run(
                execute_core, unit, statement, params, execution_options, "AsyncSession"
            )

        async def scalar(self, statement: Any, params: Any = None, **others: Any) -> Any:
            """Execute *statement* and return the first value of its first row."""
            if any(others.values()) or isinstance(statement, DefaultGenerator):  # a bare value
                return await super().scalar(statement, params, **others)
            return (await self.execute(statement, params)).scalar()

        async def get(self, entity: Any, ident: Any, **others: Any) -> Any:
            """Return an object by its key."""
            session = self.sync_session
            return await session.unit.runner.run(session.get, entity, ident, **others)

        async def connection(
            self,
            bind_arguments: Any = None,  # noqa: ARG002 -- SQLAlchemy's signature; a unit has one
            execution_options: Any = None,
            **_kw: Any,
        ) -> AsyncConnection:
            """Return the unit's Core lane: the same connection, with the same refusals."""
            connection = self.sync_session.unit.connection
            if execution_options:
                await connection.execution_options(**execution_options)
            return connection

        async def flush(self, objects: Any = None) -> None:
            """Write pending changes."""
            session = self.sync_session
            session.unit.check()
            await session.unit.runner.run(session.flush, objects)


class UnitSession(LaneSession):
    """The ORM session of a unit of work: an `AsyncSession` that cannot end the transaction."""

    async def __aenter__(self) -> NoReturn:
        """Refuse: the unit is the block."""
        refuse(self.sync_session.unit, "`async with session`")

    def begin(self) -> NoReturn:
        """Refuse: the unit has begun."""
        refuse(self.sync_session.unit, "session.begin()")

    async def commit(self) -> NoReturn:
        """Refuse: the unit commits."""
        refuse(self.sync_session.unit, "session.commit()")

    async def rollback(self) -> NoReturn:
        """Refuse: the unit rolls back."""
        refuse(self.sync_session.unit, "session.rollback()")

    async def close(self) -> NoReturn:
        """Refuse: the unit closes."""
        refuse(self.sync_session.unit, "session.close()")
