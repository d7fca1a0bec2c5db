"""A program that moves money between accounts until it is killed; run by test_killed_programs.py.

It is given `URL JOURNAL FIRST_KEY`, and says `ready` when its plugins are started, then the key of
every transfer that was acknowledged to it.
"""

import asyncio
import random

from sqlalchemy import text
from support.lives import say, serve

from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from lifecycle.events import AppCrashed

ACCOUNTS, TASKS = 20, 8


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


async def main(url: str, journal: str, first_key: str) -> None:
    """Start the plugins and transfer."""
    config = {"app": {"journal": journal}, "database": {"url": url}}
    app = Application([DatabasePlugin()], config=config)
    app.bus.subscribe("app.crashed", _report)
    async with app:
        say("ready")
        units: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(worker(units, number, int(first_key)))


def _report(event: AppCrashed) -> None:
    say(f"crashed {event.run}")


if __name__ == "__main__":
    serve(main)
