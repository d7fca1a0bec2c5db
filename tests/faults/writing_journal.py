"""A program that writes a journal until it is killed; run by test_damaged_journals.py.

It reads a line for each life, the path of the journal, and forks. The child writes the number of
its run, then the number of each event that the journal took; the parent writes `dead` after it.
"""

import os
import sys

from lifecycle.events import PluginLoaded
from lifecycle.journal import SqliteJournal


def write(path: str) -> None:
    """Append for ever."""
    journal = SqliteJournal(path)
    journal.open()
    say(journal.run)
    while True:
        say(journal.append(PluginLoaded(plugin="p", duration=0)).seq)


def say(number: int) -> None:
    """Write a line at once, in one piece."""
    os.write(1, f"{number}\n".encode())


def serve() -> None:
    """Run a life for each line."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.write(1, f"{os.getpid()}\n".encode())
            write(line.strip())
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    serve()
