"""The way that a reader has to go: the files that a piece of work enters, one after the other."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import greenlet

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("lifecycle", "db_manager", "observability")
#: The last bits of the argument of RESUME, the instruction at which a frame is entered: none of
#: them when its function is called, some when a coroutine goes on.
_GOES_ON: Final = 3
#: What the event loop calls at a moment for which some work had a deadline, whatever goes on then.
_MOMENT: Final = "CoarseTimers._reach"


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a function.

    Args:
        file: Its file, from the root of the repository.
        function: Its qualified name.
        caller: The file of the function of ours that is next below it on the stack, if any.
    """

    file: str
    function: str
    caller: str


class Way:
    """The calls into our packages, in order: of the thread's own frames and of its greenlets."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._prefixes = tuple(f"{ROOT / package}/" for package in PACKAGES)
        self._cut = len(f"{ROOT}/")

    def note(self, frame: FrameType, event: str, _arg: object) -> None:
        """Note a call; a function for `sys.setprofile`."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self._prefixes):
            return
        if code.co_qualname != _MOMENT and not code.co_code[frame.f_lasti + 1] & _GOES_ON:
            below = frame.f_back
            while below is not None and not below.f_code.co_filename.startswith(self._prefixes):
                below = below.f_back
            caller = below.f_code.co_filename[self._cut :] if below is not None else ""
            self.steps.append(Step(code.co_filename[self._cut :], code.co_qualname, caller))

    @property
    def files(self) -> set[str]:
        """The files that are entered."""
        return {step.file for step in self.steps}

    @property
    def changes(self) -> int:
        """How often the next call is in another file."""
        return sum(
            one.file != next_.file for one, next_ in zip(self.steps, self.steps[1:], strict=False)
        )

    def backwards(self) -> list[Step]:
        """Return the calls of a function in a room above that of its caller."""
        above = _levels()
        return [
            step
            for step in self.steps
            if above.get(_room(step.file), 0) < above.get(_room(step.caller), -1)
        ]

    def __str__(self) -> str:
        """Return one line for each visit of a file: what is called there."""
        lines: list[str] = []
        last = ""
        for step in self.steps:
            if step.file != last:
                lines.append(f"{step.file}:")
            lines[-1] += f" {step.function}"
            last = step.file
        return "\n".join(lines)


@contextmanager
def walked() -> Iterator[Way]:
    """Note the way of what the thread does in the block.

    A greenlet has a profile function of its own, and none when it is new: it gets ours whenever
    it is switched to.
    """
    way = Way()
    before = sys.getprofile()
    traced = greenlet.settrace(lambda _event, _both: sys.setprofile(way.note))
    sys.setprofile(way.note)
    try:
        yield way
    finally:
        sys.setprofile(before)
        greenlet.settrace(traced)
        sys.setprofile(before)


def _room(file: str) -> str:
    return ".".join(Path(file).parts[:2]).removesuffix(".py")


def _levels() -> dict[str, int]:
    """Return how far below the top each room of `lifecycle` is, by the contract of its imports."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    rooms = next(each for each in contracts if each.get("containers") == ["lifecycle"])
    return {
        f"lifecycle.{room}": level
        for level, layer in enumerate(rooms["layers"])
        for room in layer.split(" | ")
    }
