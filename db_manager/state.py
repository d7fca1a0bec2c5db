"""Where a unit is in its life."""

from enum import StrEnum


class UnitState(StrEnum):
    """Where a unit is in its life; the last three are final."""

    NEW = "new"
    ACTIVE = "active"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    OUTCOME_UNKNOWN = "outcome_unknown"

    @property
    def is_final(self) -> bool:
        """True once the unit is over, and the state changes no more."""
        return self in _FINAL


_FINAL = frozenset({UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN})
