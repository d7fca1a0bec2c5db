"""The plugin `delivery`, with a real dispatcher and a local Telegram."""

from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot, Dispatcher, Router
from aiogram.filters import Command
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.memory import MemoryStorage
from aiogram.types import Message, Update
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.delivery import DeliveryPlugin, SqlStorage
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach
from lifecycle.config import find_plugins
from lifecycle.errors import ConfigError
from observability.testing import EventRecorder

BOT = Bot("42:offline")


class Person(Base):
    """Who has filled in the form."""

    __tablename__ = "delivery_test__person"

    name: Mapped[str] = mapped_column(primary_key=True)


class Form(StatesGroup):
    """The steps of the form."""

    name = State()


async def ask(_: Message, state: FSMContext) -> None:
    """/start."""
    await state.set_state(Form.name)
    await state.update_data(asked=True)


async def take(message: Message, state: FSMContext, uow_factory: UnitOfWorkFactory) -> None:
    """Keep the name; a step and what it writes are one transaction."""
    async with uow_factory() as uow:
        await state.clear()
        uow.session.add(Person(name=message.text or ""))


class Run:
    """One run of a bot."""

    def __init__(self, url: URL, dispatcher: Dispatcher | None = None, **keys: Any) -> None:
        self.dispatcher = dispatcher or Dispatcher()
        router = Router()
        router.message.register(ask, Command("start"))
        router.message.register(take, Form.name)
        self.dispatcher.include_router(router)
        self.app = Application(
            [DatabasePlugin, DeliveryPlugin],
            config={
                "app": {"journal": "memory"},
                "database": {"url": url.render_as_string(hide_password=False)},
                "delivery": keys,
            },
        )
        attach(self.app, self.dispatcher)

    async def say(self, text: str) -> None:
        """Handle a message of Ada's."""
        chat = {"id": 7, "type": "private"}
        sender = {"id": 7, "is_bot": False, "first_name": "Ada"}
        content = {"message_id": 1, "date": 0, "chat": chat, "from": sender, "text": text}
        update = Update.model_validate({"update_id": 1, "message": content})
        await self.dispatcher.feed_update(BOT, update)

    async def names(self) -> list[str]:
        """Return who has filled in the form."""
        factory: UnitOfWorkFactory = self.app.services["db_manager:uow_factory"]
        async with factory(read_only=True) as uow:
            return list(await uow.session.scalars(select(Person.name)))


async def test_a_form_survives_a_restart(database_url: URL) -> None:
    """What was asked before a stop is answered after it, by another dispatcher."""
    before = Run(database_url)
    async with before.app:
        await before.say("/start")
    after = Run(database_url)
    async with after.app:
        await after.say("Ada")
        await after.say("Grace")  # the form is filled in, so nobody asks
        assert await after.names() == ["Ada"]


async def test_a_step_that_fails_can_be_repeated(database_url: URL) -> None:
    """A state that was cleared in a unit that failed is there still, and so is its data."""
    run = Run(database_url)
    async with run.app:
        await run.say("/start")
        await run.say("Ada")
        await run.say("/start")
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            await run.say("Ada")
        await run.say("Grace")
        assert sorted(await run.names()) == ["Ada", "Grace"]


async def test_a_storage_of_ones_own_is_left_alone(database_url: URL) -> None:
    """Only the default of a dispatcher is replaced, and only while the application is loaded."""

    class Own(MemoryStorage):
        pass

    own = Own()
    run = Run(database_url, Dispatcher(storage=own))
    async with run.app:
        assert run.dispatcher.storage is own
    run = Run(database_url)
    default = run.dispatcher.storage
    async with run.app:
        assert isinstance(run.dispatcher.storage, SqlStorage)
    assert run.dispatcher.storage is default


async def test_it_can_be_switched_off(database_url: URL) -> None:
    """`[delivery] fsm = false` leaves states where they were; an unknown key is an error."""
    run = Run(database_url, fsm=False)
    async with run.app:
        assert type(run.dispatcher.storage) is MemoryStorage
    with pytest.raises(ConfigError, match=r"delivery.*fms"):
        Run(database_url, fms=False)


async def test_without_a_dispatcher_it_does_nothing(database_url: URL) -> None:
    """A worker on the config.toml of a bot loads it too."""
    url = database_url.render_as_string(hide_password=False)
    config = {"app": {"journal": "memory"}, "database": {"url": url}}
    app = Application([DatabasePlugin, DeliveryPlugin], config=config)
    with EventRecorder(app.bus) as events:
        async with app:
            events.assert_event("plugin.started", plugin="delivery")


def test_config_toml_names_it(tmp_path: Path) -> None:
    """`plugins = ["db_manager", "delivery"]` finds it."""
    assert find_plugins(["db_manager", "delivery"], tmp_path) == [DatabasePlugin, DeliveryPlugin]
