"""Another process that has a SQLite file open, and holds its lock when it is told to."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Takes the write lock of a file, and holds it until it is told to let it go.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    connection.execute(line)
    print("done", flush=True)
"""


class Stranger:
    """Another process with the journal's file open."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def execute(self, statement: str) -> None:
        """Let it run *statement*; it has when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file's write lock."""
        self.execute("BEGIN IMMEDIATE")
        yield
        self.execute("ROLLBACK")


@contextmanager
def stranger(path: Path) -> Iterator[Stranger]:
    """Run a stranger; it is gone afterwards."""
    running = Stranger(path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
