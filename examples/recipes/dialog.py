"""A dialog of aiogram-dialog: getters read and callbacks write, each in a unit of its own.

A getter has the factory as its argument, a callback in `manager.middleware_data`. A unit ends
before the dialog goes on, so a window shows what is committed.

    BOT_TOKEN=… python dialog.py
"""

import asyncio
import logging
import os
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.filters import CommandStart
from aiogram.fsm.state import State, StatesGroup
from aiogram.types import CallbackQuery, Message
from aiogram_dialog import Dialog, DialogManager, StartMode, Window, setup_dialogs
from aiogram_dialog.widgets.input import MessageInput
from aiogram_dialog.widgets.kbd import Column, Select
from aiogram_dialog.widgets.text import Const, Format
from sqlalchemy import BigInteger, Text, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling


class Task(Base):
    """What somebody has to do."""

    __tablename__ = "todo__task"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger, index=True)
    text: Mapped[str] = mapped_column(Text)


class Todo(StatesGroup):
    """The states of the dialog."""

    list = State()


async def get_tasks(
    dialog_manager: DialogManager, uow_factory: UnitOfWorkFactory, **_: Any
) -> dict[str, Any]:
    """Read what the window shows."""
    user_id = dialog_manager.middleware_data["event_from_user"].id
    mine = select(Task).where(Task.user_id == user_id).order_by(Task.id)
    async with uow_factory(read_only=True) as uow:
        return {"tasks": (await uow.session.scalars(mine)).all()}


async def add(message: Message, _: MessageInput, manager: DialogManager) -> None:
    """Keep what somebody writes; then the window is shown again, with it."""
    uow_factory: UnitOfWorkFactory = manager.middleware_data["uow_factory"]
    async with uow_factory() as uow:
        user_id = manager.middleware_data["event_from_user"].id
        uow.session.add(Task(user_id=user_id, text=message.text or "something"))


async def done(query: CallbackQuery, _: Any, manager: DialogManager, task_id: int) -> None:
    """Delete the task whose button was pressed; that of somebody else stays."""
    uow_factory: UnitOfWorkFactory = manager.middleware_data["uow_factory"]
    async with uow_factory() as uow:
        mine = (Task.id == task_id, Task.user_id == query.from_user.id)
        await uow.session.execute(delete(Task).where(*mine))


TASKS: Select[int] = Select(
    Format("✓ {item.text}"),
    id="done",
    item_id_getter=lambda task: task.id,
    items="tasks",
    type_factory=int,
    on_click=done,
)
WINDOW = Window(
    Const("Write what there is to do; press what is done."),
    Column(TASKS),
    MessageInput(add),
    getter=get_tasks,
    state=Todo.list,
)


async def start(_: Message, dialog_manager: DialogManager) -> None:
    """/start."""
    await dialog_manager.start(Todo.list, mode=StartMode.RESET_STACK)


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    dispatcher = Dispatcher()
    dispatcher.message.register(start, CommandStart())
    dispatcher.include_router(Dialog(WINDOW))
    setup_dialogs(dispatcher)
    app = Application([DatabasePlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
