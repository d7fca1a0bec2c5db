"""What the errors of a driver mean, by class and code, never by their words.

The defaults go by SQLSTATE.
"""

from typing import Any, ClassVar, Final

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


class Meanings:
    """The part of a dialect that classifies errors; *error* is the driver's own."""

    #: Package that defines the driver's own errors.
    package: ClassVar[str] = ""

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

    def was_not_committed(self, error: Any) -> bool:
        """Return True if *error*, of a COMMIT, proves that nothing was written."""
        state = _sqlstate(error)
        # PgBouncer answers 08P01 when its connection to the server is lost.
        return bool(state) and state not in LOST and not state.startswith("08")

    def tell(self, error: Any) -> Told:
        """Return the name of *error*, and those of its facts that contain no user data."""
        state = _sqlstate(error)
        return type(error).__name__, [state] if state else []


def _sqlstate(error: Any) -> str:
    return str(getattr(error, "sqlstate", None) or "")
