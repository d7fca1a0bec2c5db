"""A program that moves money between accounts until it is killed; run by test_killed_programs.py.

The imports take seconds, so one process imports and is forked for each life: it reads a line for
each, `URL JOURNAL FIRST_KEY`. The child writes its pid, `ready` when its plugins are started, then
the key of every transfer that was acknowledged to it, one line each, at once; the parent writes
`dead` after it.
"""

import asyncio
import os
import random
import sys

from sqlalchemy import text

from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from lifecycle.events import AppCrashed

ACCOUNTS, TASKS = 20, 8


def say(line: str) -> None:
    """Write a line so that it is out before anything else happens."""
    os.write(1, f"{line}\n".encode())


async def transfer(uow: UnitOfWork, key: int) -> None:
    """Move one from an account to another, and write down that it was done."""
    first, second = random.sample(range(ACCOUNTS), 2)
    connection = uow.connection
    # In the order of the accounts, so that two transfers do not wait for each other.
    for account in sorted((first, second)):
        change = -1 if account == first else 1
        await connection.execute(
            text("UPDATE account SET balance = balance + :change WHERE id = :id"),
            {"change": change, "id": account},
        )
    await connection.execute(text("INSERT INTO transfer VALUES (:key)"), {"key": key})


async def worker(units: UnitOfWorkFactory, number: int, first_key: int) -> None:
    """Transfer for ever."""
    key = first_key + number
    while True:
        async with units() as uow:
            await transfer(uow, key)
        say(str(key))
        key += TASKS


async def main(url: str, journal: str, first_key: int) -> None:
    """Start the plugins and transfer."""
    config = {"app": {"journal": journal}, "database": {"url": url}}
    app = Application([DatabasePlugin()], config=config)
    app.bus.subscribe("app.crashed", _report)
    async with app:
        say("ready")
        units: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(worker(units, number, first_key))


def _report(event: AppCrashed) -> None:
    say(f"crashed {event.run}")


def serve() -> None:
    """Run a life for each line."""
    for line in sys.stdin:
        url, journal, first_key = line.split()
        pid = os.fork()
        if pid == 0:
            say(str(os.getpid()))
            asyncio.run(main(url, journal, int(first_key)))
            return
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    serve()
