"""A gate in a revision: it waits there until its test lets it go on."""

import asyncio
import logging
from typing import Self

from sqlalchemy.util import await_only


class Gate:
    """What a revision waits at.

    Attributes:
        reached: A revision has come.
        opened: It may go on.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    def __enter__(self) -> Self:
        _gates.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.set()
        _gates.remove(self)


_gates: list[Gate] = []
#: A revision with this line waits at the gate of its test.
WAITS = "__import__('support.gate').gate.wait()"


def come() -> None:
    """Say that a revision is in the middle; called by it."""
    logging.getLogger("gate").warning("in the middle")
    if _gates:
        _gates[-1].reached.set()


def wait() -> None:
    """Wait at the gate, if there is one; called by a revision, in its greenlet."""
    come()
    if _gates:
        await_only(_gates[-1].opened.wait())
