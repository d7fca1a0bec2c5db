"""Lets forked processes meet."""

import os


class Barrier:
    """Lets processes go on together when all have come; made before they are forked.

    Args:
        count: How many come.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._came, self._come = os.pipe()
        self._gate, self._opener = os.pipe()

    def enter(self) -> None:
        """Belong to those who come, from the fork on."""
        os.close(self._opener)

    def wait(self) -> None:
        """Come, and wait for the others."""
        os.write(self._come, b".")
        os.read(self._gate, 1)

    def open(self) -> None:
        """Wait for all and let them go: everybody reads the end of the pipe then."""
        for _ in range(self._count):
            os.read(self._came, 1)
        os.close(self._opener)

    def close(self) -> None:
        """Give its files back."""
        for file in (self._came, self._come, self._gate):
            os.close(file)
