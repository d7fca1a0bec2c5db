"""What the lanes of a unit have in common: their view of the unit, and what they refuse."""

from abc import abstractmethod
from typing import Any, Final, NoReturn

from sqlalchemy import DDL, TextClause
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.ext.asyncio.exc import AsyncMethodRequired
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.sql.expression import TextualSelect

from db_manager.database.open_unit import OpenUnit
from db_manager.dialects.ending_sql import ending
from db_manager.errors import UnitOfWorkStateError
from db_manager.running.port import Runner

#: Constructs that contain plain SQL.
_PLAIN: Final = (TextClause, TextualSelect, DDL)


class Unit(OpenUnit):
    """A unit, as its lanes see it."""

    __slots__ = ("runner",)

    #: Runs SQLAlchemy's synchronous core; known once the unit is entered.
    runner: Runner

    @property
    @abstractmethod
    def whole(self) -> "Unit":
        """The unit whose transaction it uses: itself, unless it was entered inside of one."""

    @property
    @abstractmethod
    def engine(self) -> AsyncEngine:
        """The engine of its database."""

    @property
    @abstractmethod
    def session(self) -> AsyncSession:
        """Its ORM lane."""

    @property
    @abstractmethod
    def connection(self) -> AsyncConnection:
        """Its Core lane."""

    @abstractmethod
    async def driver(self) -> Any:
        """Return the driver's own connection, with the transaction begun."""

    @abstractmethod
    def connect(self) -> Connection:
        """Return the unit's connection; the first call checks it out."""

    @abstractmethod
    def savepoint_made(self, savepoint: SessionTransaction) -> None:
        """Save what the unit restores if *savepoint* is rolled back."""

    @abstractmethod
    def savepoint_undone(self, savepoint: SessionTransaction) -> None:
        """Drop callbacks and failures since *savepoint*, which was rolled back."""


def refuse(unit: OpenUnit, what: str) -> NoReturn:
    """Raise, because *what* would interfere with the transaction, which belongs to the unit.

    Raises:
        UnitOfWorkStateError: Always.
    """
    raise UnitOfWorkStateError(
        unit.state,
        f"{what} is not allowed in the block",
        "it commits at the end of its block; raise or `await uow.rollback()` to roll it back, "
        "and use `async with uow.savepoint():` for a part that may fail",
    )


def refuse_end(unit: OpenUnit, statement: object) -> None:
    """Raise if *statement* is plain SQL that ends a transaction, such as COMMIT.

    Raises:
        UnitOfWorkStateError: It ends a transaction.
    """
    sql = statement
    if isinstance(statement, TextClause):
        sql = statement.text
    elif isinstance(statement, DDL):
        sql = statement.statement
    elif isinstance(statement, TextualSelect):  # text(…).columns(…)
        refuse_end(unit, statement.element)
    if isinstance(sql, str) and (word := ending(sql)):
        refuse(unit, word)


def execute_core(unit: Unit, statement: Any, parameters: Any, options: Any, lane: str) -> Any:
    """Execute a Core statement for *lane* on the unit's connection; runs inside a greenlet.

    Raises:
        AsyncMethodRequired: The statement asks for a server-side cursor, which only `stream` reads.
        UnitOfWorkStateError: The statement is a COMMIT or a ROLLBACK in plain SQL.
    """
    if isinstance(statement, _PLAIN):
        refuse_end(unit, statement)
    result = unit.connect().execute(statement, parameters, execution_options=options)
    refuse_stream(result, lane)
    return result


def refuse_stream(result: Any, lane: str) -> None:
    """Raise if only `stream` of *lane* can read *result*; runs inside a greenlet.

    Raises:
        AsyncMethodRequired: Its rows are still at the server.
    """
    context = getattr(getattr(result, "raw", result), "context", None)
    if context is not None and context.execution_options.get("stream_results"):
        result.close()
        raise AsyncMethodRequired(
            f"Can't use the {lane}.execute() method with a server-side cursor. "
            f"Use the {lane}.stream() method for an async streaming result set."
        )
