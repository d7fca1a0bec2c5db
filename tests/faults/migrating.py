"""Processes that start bots with migrations at the same moment; run by test_migrating_*.py.

The imports take seconds, so one process imports and forks them: for each line, the JSON of a `Run`,
it forks processes, lets them go together, and writes `end` after them. Each writes its number, what
it migrated, and `started`, or what went wrong.

In the wrong ways they go on together once more: without the lock when all have looked what is
pending, and those that leave SQLite's transaction when all have left it. What makes them wrong
happens then, not by chance.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosqlite  # noqa: F401 -- as above
import alembic.command  # noqa: F401 -- imported once, for all
import asyncmy  # noqa: F401 -- as above
import asyncpg  # noqa: F401 -- as above
import psycopg  # noqa: F401 -- as above
from sqlalchemy.engine import make_url
from support.barrier import Barrier
from support.project import Project

from db_manager.dialects.sqlite.sqlite_migration import SqliteMigration
from db_manager.events import Migrated
from db_manager.migrations import move
from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application


@dataclass
class Run:
    """Some processes that start.

    Args:
        url: The database.
        folder: The folder of the project.
        count: How many.
        way: How they migrate: `right`, `without-lock` or `leaves`.
        keys: More of the section [database].
    """

    url: str
    folder: str
    count: int = 1
    way: str = "right"
    keys: dict[str, Any] = field(default_factory=dict)


def in_block() -> None:
    """Go on; called by a revision, in a block outside of its transaction."""


def say(line: str) -> None:
    """Write a line at once, in one piece."""
    os.write(1, f"{line}\n".encode())


@asynccontextmanager
async def nobody_waits(*_: object) -> AsyncIterator[None]:
    """Stand in for the lock, in the wrong way."""
    yield


async def main(run: Run, ready: Barrier, looked: Barrier) -> None:
    """Wait for the others, start a bot, and stop it."""
    project = Project.on(Path(run.folder), make_url(run.url))
    project.load()
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": project.metadata})
    section = {"url": run.url, **run.keys}
    app = Application([plugin], config={"app": {"journal": "memory"}, "database": section})
    app.bus.subscribe("database.migrated", _tell)
    if run.way == "without-lock":
        vars(move)["one_at_a_time"] = nobody_waits
        waits = iter((looked.wait,))  # at the first one only
        app.bus.subscribe("database.migrating", lambda _: next(waits, lambda: None)())
    await asyncio.to_thread(ready.wait)
    try:
        async with app:
            say("started")
    except Exception as error:  # noqa: BLE001 -- the test reads what it is
        say(f"failed {' '.join(str(error).split())}")


def _tell(event: Migrated) -> None:
    say(f"migrated {event.plugin} {event.revision}")


def fork(run: Run) -> None:
    """Run the processes of a line, up to their end."""
    ready, looked = Barrier(run.count), Barrier(run.count)
    pids = []
    for _ in range(run.count):
        pids.append(os.fork())
        if not pids[-1]:
            ready.enter()
            looked.enter()
            say(f"pid {os.getpid()}")
            if run.way == "leaves":
                SqliteMigration.may_leave = True
                globals()["in_block"] = looked.wait
            asyncio.run(main(run, ready, looked))
            os._exit(0)
    ready.open()
    if run.way == "right":
        looked.enter()
    else:
        looked.open()
    for pid in pids:
        os.waitpid(pid, 0)
    ready.close()
    looked.close()
    say("end")


if __name__ == "__main__":
    for line in sys.stdin:
        fork(Run(**json.loads(line)))
