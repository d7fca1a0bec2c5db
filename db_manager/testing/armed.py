"""Faults that are armed: which units each strikes, and whether it has struck."""

from contextlib import ExitStack
from dataclasses import dataclass

from db_manager.testing.aim import Aim, Witness
from lifecycle.bus import EventBus
from lifecycle.correlation import current_correlation


@dataclass(slots=True)
class Fault:
    """An armed fault: which units it strikes, and how many times it will still occur.

    Args:
        name: What it is called in errors.
        left: How many times it will still occur.
        aim: The units that it strikes.
        since: How many units had begun when it was armed.
    """

    name: str
    left: int
    aim: Aim
    since: int


class Armed:
    """The faults of a test, which says so when one never struck.

    Args:
        bus: The bus on which units are published.
    """

    def __init__(self, bus: EventBus) -> None:
        self._stack = ExitStack()
        self._faults: list[Fault] = []
        self._witness = Witness(bus)

    def _aims_here(self, fault: Fault) -> bool:
        unit = current_correlation().unit
        return fault.aim.takes(unit, self._witness.units[fault.since :])

    def _new(self, what: str, times: int, aim: Aim) -> Fault:
        name = what if aim.is_anywhere else f"{what}({aim})"
        if name in self._armed():
            raise ValueError(f"{name} is armed already; use `times` for more than one")
        self._witness.open()
        fault = Fault(name, times, aim, len(self._witness.units))
        self._faults.append(fault)
        return fault

    def close(self) -> None:
        """Remove all faults.

        Raises:
            AssertionError: A fault never occurred, so the test did not test it.
        """
        self._stack.close()
        self._witness.close()
        left = self._armed()
        since = min((fault.since for fault in self._faults if fault.left), default=0)
        self._faults.clear()
        if left:
            told = self._witness.tell(since)
            raise AssertionError(f"faults that never occurred: {', '.join(left)}; {told}")

    def _armed(self) -> list[str]:
        return [fault.name for fault in self._faults if fault.left]

    def __repr__(self) -> str:
        return f"<Faults armed={self._armed()}>"
