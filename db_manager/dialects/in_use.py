"""What a unit asks of its database and driver: connections, transactions, and what errors mean.

Errors are classified by class and code, never by their words; the defaults go by SQLSTATE.
"""

from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any, ClassVar, Final

from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.errors import TransactionAbortedError
from lifecycle.error_text import Told

# PostgreSQL's documentation, 13.5 and appendix A.
#: The server rolled the transaction back, and a retry may succeed.
UNDONE: Final = frozenset({"40001", "40P01", "55P03", "25006"})
#: Nothing has begun: the server refused the connection or is not ready.
UNAVAILABLE: Final = frozenset({"57P03", "53300", "08001", "08004", "57P05"})
#: The connection is lost; if COMMIT was not sent, the transaction is rolled back.
LOST: Final = frozenset({"08000", "08003", "08006", "08007", "57P01", "57P02", "40003", "25P03"})
#: The statement is only allowed inside a transaction block.
NO_TRANSACTION: Final = "25P01"


class InUse:
    """The half of a dialect that is asked while units run; `Dialect` has the other.

    *driver* is the driver's own connection, and *error* the driver's own error.
    """

    #: Package that defines the driver's own errors.
    package: ClassVar[str] = ""
    #: Attributes of the driver's connection that create rows, cursors and strings.
    factories: ClassVar[tuple[str, ...]] = ()

    # -- a connection, without a round trip -----------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True if the connection is known to be lost; it may be idle or in use."""
        return bool(getattr(driver, "closed", False))

    def is_dead(self, driver: Any) -> bool:
        """Return True if an idle connection is lost, or is still in a transaction."""
        return self.is_closed(driver)

    def is_settled(self, pooled: PoolProxiedConnection) -> bool:
        """Return True if the driver knows that a ROLLBACK would have nothing to undo."""
        del pooled
        return False

    def is_half_done(self, driver: Any) -> bool:
        """Return True if the driver still has unfinished state from a unit that has ended."""
        del driver
        return False

    def hang_up(self, connection: Connection) -> None:
        """Drop the connection without contacting the server, and free its place in the pool.

        Called outside a greenlet, so it must not wait.

        Args:
            connection: A connection whose regular close did not complete.
        """
        connection.invalidate()  # SQLAlchemy's adapter has a `terminate` that does not wait
        connection.close()

    # -- the transaction of a unit --------------------------------------------------------

    def begin(self, connection: Connection, adapter: Any, driver: Any) -> None:
        """Begin the transaction at the server now, once SQLAlchemy has begun it for itself.

        SQLAlchemy's adapter may begin with the first statement that goes through it. A statement
        that bypasses SQLAlchemy must find the transaction begun; most drivers see to that.

        Args:
            connection: The connection of the unit.
            adapter: SQLAlchemy's adapter of the driver's connection.
            driver: The driver's own connection.
        """

    def factories_of(self, driver: Any) -> dict[str, Any]:
        """Return the current values of `factories`, for `put_back`."""
        return {name: getattr(driver, name) for name in self.factories if hasattr(driver, name)}

    def put_back(self, driver: Any, before: Mapping[str, Any]) -> None:
        """Restore the factories that a block has replaced, so that no later unit gets them.

        Raises:
            ValueError: The connection is closed (aiosqlite).
        """
        for name, factory in before.items():
            if getattr(driver, name) is not factory:
                setattr(driver, name, factory)

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return True if each statement commits by itself; without a round trip.

        Args:
            adapter: SQLAlchemy's adapter of the driver's connection.
            driver: The driver's own connection.
        """
        del driver
        return getattr(adapter, "autocommit", False) is True

    def ends(self, driver: Any) -> int:
        """Return the number of transactions that ended on the connection, if the driver counts."""
        return getattr(driver, "ends", 0)

    def implicit_commits(self, driver: Any) -> int | None:
        """Return how often a statement, such as DDL, implicitly committed what preceded it.

        None when the driver does not count that.
        """
        del driver
        return 0

    def was_ended(self, adapter: Any, driver: Any, ends: int) -> bool:
        """Return True if the transaction ended before the unit ended it; without a round trip.

        Args:
            adapter: SQLAlchemy's adapter of the driver's connection; None if that is lost.
            driver: The driver's own connection, as the unit got it.
            ends: The value of `ends` at that time.
        """
        del adapter
        return self.ends(driver) != ends

    def is_statement(self, awaited: Any) -> bool:
        """Return True if *awaited* executes a statement, and cancels no task in doing so.

        Args:
            awaited: What SQLAlchemy's adapter of the driver awaits.
        """
        del awaited
        return False

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Return True if a statement that bypassed SQLAlchemy failed and aborted the transaction.

        Where COMMIT itself reports that, this may return False without asking the server.
        """
        del pooled, driver
        return False

    def transaction_id(self, pooled: PoolProxiedConnection) -> int | None:
        """Return the id under which the server can report the transaction's outcome later.

        0 when it wrote nothing; None where there is no such id.
        """
        del pooled
        return None

    # -- errors ---------------------------------------------------------------------------

    def is_undone(self, error: Any) -> bool:
        """Return True if the server rolled the transaction back and a retry may succeed."""
        return _sqlstate(error) in UNDONE

    def is_unavailable(self, error: Any) -> bool:
        """Return True if the server refused the connection or is not ready."""
        return _sqlstate(error) in UNAVAILABLE

    def is_lost(self, error: Any) -> bool:
        """Return True if *error* means that the connection is lost."""
        return _sqlstate(error) in LOST

    def is_uncoded(self, error: Any) -> bool:
        """Return True if *error*, of an attempt to connect, has no code."""
        del error
        return False

    async def refuses_us(self, error: Any) -> bool:
        """Return True if the server accepts connections but refused ours.

        Args:
            error: The error of the connection attempt, without a code.
        """
        del error
        return False

    def is_other_task_busy(self, error: Any) -> bool:
        """Return True if a statement of another task is still running on the connection."""
        del error
        return False

    def is_stale_plan(self, error: Any) -> bool:
        """Return True if a migration invalidated a cached plan; a retry gets a new plan."""
        del error
        return False

    def needs_transaction(self, error: Any) -> bool:
        """Return True if the statement is only allowed inside a transaction block."""
        return _sqlstate(error) == NO_TRANSACTION

    def commit_is_undone(self, error: BaseException) -> bool:
        """Return True if *error* of a COMMIT, also SQLAlchemy's, proves that nothing was written.

        Args:
            error: The error that COMMIT raised.

        Returns:
            True when the server answered with an error, or the driver did not send COMMIT. False
            when there was no answer, so that the outcome is unknown.
        """
        if isinstance(error, TransactionAbortedError):
            return True  # the server answered with ROLLBACK
        below = origin(error)
        if type(below).__module__.partition(".")[0] == self.package:
            return self.was_not_committed(below)
        return InUse.was_not_committed(self, below)  # not the driver's: only a SQLSTATE counts

    def was_not_committed(self, error: Any) -> bool:
        """Return True if *error*, of a COMMIT, proves that nothing was written."""
        state = _sqlstate(error)
        # PgBouncer answers 08P01 when its connection to the server is lost.
        return bool(state) and state not in LOST and not state.startswith("08")

    def tell(self, error: Any) -> Told:
        """Return the name of *error*, and those of its facts that contain no user data."""
        state = _sqlstate(error)
        return type(error).__name__, [state] if state else []


def codes_of(kind: type, *names: str) -> tuple[CodeType, ...]:
    """Return the code of the methods *names* of *kind*, without those that it does not have."""
    methods = [getattr(kind, name, None) for name in names]
    return tuple(method.__code__ for method in methods if isinstance(method, FunctionType))


def _sqlstate(error: Any) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def origin(error: BaseException) -> BaseException:
    """Return the driver's own error, which SQLAlchemy wraps, in two layers for asyncpg."""
    while isinstance(error, exc.StatementError) or _is_emulated(error):
        below = getattr(error, "orig", None) or error.__cause__
        if below is None:
            break
        error = below
    return error


def _is_emulated(error: BaseException) -> bool:
    """Return True if SQLAlchemy's part for a driver raised it in place of the driver's error.

    Its base class has a public name only from SQLAlchemy 2.1 on.
    """
    return type(error).__module__.startswith("sqlalchemy.dialects.")


def is_silent(error: BaseException) -> bool:
    """Return True if the connection was lost because the server stopped answering.

    Then other connections over the same network may be lost as well, without showing it.

    Args:
        error: The driver's error.
    """
    cause = error.__cause__
    return isinstance(error, TimeoutError) or (cause is not None and is_silent(cause))
