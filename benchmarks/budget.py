"""Whether SQLite may read on the thread of the event loop: how long one statement blocks it.

A read by key takes less than the way to a thread and back. So a unit that only reads could run a
statement where it is, and let SQLite interrupt it after a budget; then it would run again in the
thread. SQLite asks whether to go on between the steps of its program, and some steps are long.
"""

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.report import Scale, Section, Table

NAME = "budget"

#: Seconds after which a statement is to give the loop back.
BUDGET: Final = 300e-6
#: Steps of SQLite's program between two questions.
_STEPS: Final = 100
#: Rows, and bytes of one value; in a log that a process left behind, megabytes.
_ROWS, _BYTES, _LOG = 400_000, 30_000_000, 60

_STATEMENTS: Final = {
    "by key": "SELECT * FROM item WHERE id = 77",
    "all rows are looked at": "SELECT * FROM item WHERE qty = -1",
    "sorted without an index": "SELECT * FROM item ORDER BY name LIMIT 1",
    "rows are counted": "SELECT count(*) FROM item",
    "a large value is read": "SELECT body FROM large",
    "a function works on a large value": "SELECT hex(body) FROM large",
}
_TEXT: Final = (
    f"What blocks the event loop for how long, if a statement of a unit that only reads ran on its "
    f"thread with a budget of {BUDGET * 1e6:.0f} µs, after which SQLite is to interrupt it: "
    f"{_ROWS:,} rows, a value of {_BYTES // 1_000_000} MB, and a write-ahead log of {_LOG} MB that "
    "a killed process has left. Times are CPU of that thread, the longest of the rounds. The loop "
    "would have to wait for the budget and one page at most; so SQLite stays in its own thread."
)
#: Writes a log that the next process has to read before it reads anything else, and is killed.
_KILLED: Final = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
for pragma in ("journal_mode = WAL", "wal_autocheckpoint = 0", "synchronous = OFF"):
    file.execute(f"PRAGMA {pragma}")
file.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB)")
for _ in range(int(sys.argv[2])):
    file.execute("INSERT INTO item (body) VALUES (randomblob(1000000))")
os._exit(9)
"""


class Block(NamedTuple):
    """How one statement blocked.

    Args:
        seconds: CPU of the thread.
        asked: How many times SQLite asked whether to go on.
        interrupted: Whether it was told not to.
    """

    seconds: float
    asked: int
    interrupted: bool


async def measure(scale: Scale) -> Section:
    """Measure each statement, and the first read after a crash."""
    size = 20 if scale.quick else 1  # smaller by that
    with tempfile.TemporaryDirectory() as folder:
        found = dict(_blocks(Path(folder), scale.rounds, size))
    rows = [
        (name, round(block.seconds * 1e3, 2), block.asked, "yes" if block.interrupted else "no")
        for name, block in found.items()
    ]
    columns = ("", "CPU ms", "asked", "interrupted")
    return Section("SQLite without a crossing", _TEXT, [Table("The longest block", columns, rows)])


def _blocks(folder: Path, rounds: int, size: int) -> Iterator[tuple[str, Block]]:
    path = folder / "items.sqlite3"
    with closing(sqlite3.connect(path)) as writing:
        writing.execute("PRAGMA journal_mode = WAL")
        writing.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INT)")
        writing.execute("CREATE TABLE large (id INTEGER PRIMARY KEY, body BLOB)")
        rows = ((f"item {i} " * 4, i) for i in range(_ROWS // size))
        writing.executemany("INSERT INTO item (name, qty) VALUES (?, ?)", rows)
        writing.execute("INSERT INTO large VALUES (1, zeroblob(?))", (_BYTES // size,))
        writing.commit()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as reading:
        for name, sql in _STATEMENTS.items():
            yield name, max(_block(reading, sql) for _ in range(rounds))
    path = folder / "left.sqlite3"
    command = [sys.executable, "-c", _KILLED, str(path), str(_LOG // size)]
    subprocess.run(command, check=False)  # noqa: S603 -- this very program
    path.with_name(f"{path.name}-shm").unlink()  # as after a crash of the machine
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as reading:
        yield "by key, the first read after a crash", _block(reading, _STATEMENTS["by key"])


def _block(reading: sqlite3.Connection, sql: str) -> Block:
    asked = 0
    interrupted = False

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        return time.perf_counter() > deadline

    reading.set_progress_handler(is_over, _STEPS)
    began = time.thread_time()
    deadline = time.perf_counter() + BUDGET
    try:
        reading.execute(sql).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        interrupted = True
    return Block(time.thread_time() - began, asked, interrupted)
