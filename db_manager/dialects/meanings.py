"""What the errors of a driver mean, by class and code and never by words; by SQLSTATE for any."""

from typing import Any, ClassVar, Final

from lifecycle.error_text import Told

# PostgreSQL's documentation, 13.5 and appendix A.
#: The server said that it undid the transaction, and that another try may succeed.
UNDONE: Final = frozenset({"40001", "40P01", "55P03", "25006"})
#: Nothing began: the server refused or is not there yet.
UNAVAILABLE: Final = frozenset({"57P03", "53300", "08001", "08004", "57P05"})
#: The connection is gone; before COMMIT was sent that means rolled back.
LOST: Final = frozenset({"08000", "08003", "08006", "08007", "57P01", "57P02", "40003", "25P03"})
#: The statement has to be inside of a transaction block.
NO_TRANSACTION: Final = "25P01"


class Meanings:
    """The part of a dialect that is asked about errors; *error* is the driver's own."""

    #: Package that the driver's own errors are from.
    package: ClassVar[str] = ""

    def is_undone(self, error: Any) -> bool:
        """Return True when the server undid the transaction, and another try may succeed."""
        return _sqlstate(error) in UNDONE

    def is_unavailable(self, error: Any) -> bool:
        """Return True when the server refused to begin, or is not there yet."""
        return _sqlstate(error) in UNAVAILABLE

    def is_lost(self, error: Any) -> bool:
        """Return True when the connection did not survive *error*."""
        return _sqlstate(error) in LOST

    def is_uncoded(self, error: Any) -> bool:
        """Return True when *error* is of an attempt to connect, and has no code."""
        del error
        return False

    async def refuses_us(self, error: Any) -> bool:
        """Return True when the server takes connections and refused ours.

        Args:
            error: What the attempt raised, without a code.
        """
        del error
        return False

    def is_other_task_busy(self, error: Any) -> bool:
        """Return True when a statement of another task still runs on the connection."""
        del error
        return False

    def is_stale_plan(self, error: Any) -> bool:
        """Return True when a migration made a prepared plan useless; it is gone at the next try."""
        del error
        return False

    def needs_transaction(self, error: Any) -> bool:
        """Return True when the statement has to be inside of a transaction block."""
        return _sqlstate(error) == NO_TRANSACTION

    def was_not_committed(self, error: Any) -> bool:
        """Return True when *error* of a COMMIT proves that nothing was written."""
        state = _sqlstate(error)
        # PgBouncer says 08P01 when its server is gone.
        return bool(state) and state not in LOST and not state.startswith("08")

    def tell(self, error: Any) -> Told:
        """Return the name of *error*, and facts of it that come from no user."""
        state = _sqlstate(error)
        return type(error).__name__, [state] if state else []


def _sqlstate(error: Any) -> str:
    return str(getattr(error, "sqlstate", None) or "")
