"""A program that walks through forms until it is killed; run by test_killed_conversations.py.

It is given `URL WAY`, and says the key and the step of every step that was committed. The way
`apart` is the wrong one: the state has a unit of its own, and the program dies between the two.
"""

import asyncio
import os

from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import StorageKey
from sqlalchemy import text
from support.lives import say, serve

from db_manager.config import DatabaseConfig
from db_manager.delivery import SqlStorage
from db_manager.engine.create import create_engine
from db_manager.unit.factory import UnitOfWorkFactory

FORMS = 6
#: After how many steps the wrong way dies.
ENOUGH = 5


async def walk(units: UnitOfWorkFactory, form: int, way: str) -> None:
    """Take one step after the other: its row, the state and the data say which."""
    state = FSMContext(SqlStorage(units), StorageKey(bot_id=1, chat_id=form, user_id=form))
    while True:
        step = int((await state.get_state()) or 0) + 1
        if way == "apart":
            await state.set_state(str(step))
            if step == ENOUGH:
                os._exit(1)
        async with units() as uow:
            row = {"form": form, "step": step}
            await uow.connection.execute(text("INSERT INTO step VALUES (:form, :step)"), row)
            await state.set_state(str(step))
            await state.update_data(step=step)
        say(f"{form} {step}")


async def main(url: str, way: str) -> None:
    """Walk through all forms at once."""
    units = UnitOfWorkFactory(create_engine(DatabaseConfig.model_validate({"url": url})))
    async with asyncio.TaskGroup() as group:
        for form in range(FORMS):
            group.create_task(walk(units, form, way))


if __name__ == "__main__":
    serve(main)
