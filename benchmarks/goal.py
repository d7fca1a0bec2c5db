"""What a goal is: numbers that sections leave, and the bound under which they have to stay."""

from collections.abc import Mapping
from dataclasses import dataclass, field


def fact(setting: str, work: str, who: str, mode: str) -> str:
    """Return the name of a ratio: of whom, doing what, where, and `50 tasks cpu` or the like."""
    return f"{setting} | {work} | {who} | {mode}"


@dataclass(frozen=True)
class Goal:
    """One bound.

    Args:
        work: What is done.
        bound: The largest number that is good.
        facts: The numbers, by what they are called in the table; the worst of them counts.
        unit: What stands behind the numbers.
        floor: The same numbers of the bare driver: what is between them is all there is to gain.
        above: The numbers above which those of *facts* are counted, by the same names; without
            them, from zero.
    """

    work: str
    bound: float
    facts: Mapping[str, str]
    unit: str = ""
    floor: Mapping[str, str] = field(default_factory=dict)
    above: Mapping[str, str] = field(default_factory=dict)
