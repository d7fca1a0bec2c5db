"""What handlers, filters and error handlers find in their data, with the real dispatcher."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiogram import BaseMiddleware, Bot, Dispatcher, Router
from aiogram.dispatcher.event.bases import UNHANDLED, CancelHandler, SkipHandler
from aiogram.filters import Command
from aiogram.types import ErrorEvent, Message, Update
from sqlalchemy import func, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach, include_router
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability.testing import EventRecorder

BOT = Bot("42:offline")


class Note(Base):
    """A note."""

    __tablename__ = "middleware_test__note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def message(text: str, number: int = 1) -> Update:
    """Return an update with a message."""
    chat = {"id": 7, "type": "private"}
    content = {"message_id": 1, "date": 0, "chat": chat, "text": text}
    return Update.model_validate({"update_id": number, "message": content})


class Notes(Plugin):
    """A plugin with the router of the test."""

    name = "notes"
    requires = ("db_manager",)

    def __init__(self, router: Router) -> None:
        self.router = router

    async def load(self, context: PluginContext) -> None:
        """Include the router."""
        dispatcher = context.services["aiogram:dispatcher"]
        await context.enter(include_router(dispatcher, self.router))


class Bench:
    """A dispatcher with the plugin, and what it publishes."""

    def __init__(self, database: URL) -> None:
        self.dispatcher = Dispatcher()
        self.router = Router()
        self.app = Application(
            [DatabasePlugin(), Notes(self.router)],
            config={
                "app": {"journal": "memory"},
                "database": {"url": database.render_as_string(hide_password=False)},
            },
        )
        attach(self.app, self.dispatcher)
        self.events = EventRecorder(self.app.bus)

    async def feed(self, text: str) -> Any:
        """Handle an update with this text."""
        return await self.dispatcher.feed_update(BOT, message(text))

    async def count(self) -> int:
        """Return how many notes there are."""
        factory: UnitOfWorkFactory = self.app.services["db_manager:uow_factory"]
        async with factory() as uow:
            return int(await uow.session.scalar(select(func.count(Note.id))) or 0)


@pytest.fixture
async def bench(database_url: URL) -> AsyncIterator[Bench]:
    """A dispatcher and an application that was started."""
    bench = Bench(database_url)
    async with bench.app:
        yield bench


async def save(note: Message, uow_factory: UnitOfWorkFactory) -> str:
    """Write a note, as handlers do."""
    async with uow_factory() as uow:
        await uow.session.execute(insert(Note).values(text=note.text))
    return "saved"


async def test_a_handler_gets_the_factory(bench: Bench) -> None:
    """A handler that asks for `uow_factory` writes a note, under its own correlation."""
    bench.router.message.register(save, Command("note"))
    assert await bench.feed("/note milk") == "saved"
    assert await bench.count() == 1
    closed = bench.events.assert_event("uow.close", outcome="committed", plugin="notes")
    assert closed.correlation.update_id == 1
    assert closed.correlation.update_type == "message"
    assert str(closed.correlation.handler).endswith("save")


async def test_filters_and_middlewares_get_it_too(bench: Bench) -> None:
    """Filters and inner and outer middlewares of any router find the factory in their data."""
    found: list[tuple[str, object]] = []

    async def has_notes(note: Message, uow_factory: UnitOfWorkFactory) -> bool:  # noqa: ARG001 -- a filter's signature
        found.append(("filter", uow_factory))
        async with uow_factory(read_only=True) as uow:
            return bool(await uow.session.scalar(select(func.count(Note.id)))) or True

    class Note_(BaseMiddleware):  # noqa: N801 -- beside the model of that name
        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, handler: Any, event: Any, data: dict[str, Any]) -> Any:
            found.append((self.name, data["uow_factory"]))
            return await handler(event, data)

    bench.router.message.outer_middleware(Note_("outer"))
    bench.router.message.middleware(Note_("inner"))
    bench.dispatcher.message.outer_middleware(Note_("dispatcher"))
    bench.router.message.register(save, has_notes)
    assert await bench.feed("milk") == "saved"
    assert [name for name, _ in found] == ["dispatcher", "outer", "filter", "inner"]
    assert len({id(factory) for _, factory in found}) == 1


async def test_an_error_handler_gets_it(bench: Bench) -> None:
    """What failed is rolled back, and an error handler can write about it in a unit of its own."""

    async def boom(note: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Note).values(text=note.text))
            raise ZeroDivisionError("boom")

    async def report(event: ErrorEvent, uow_factory: UnitOfWorkFactory) -> str:
        async with uow_factory() as uow:
            uow.session.add(Note(text=str(event.exception)))
        return "reported"

    bench.router.message.register(boom)
    bench.router.errors.register(report)
    assert await bench.feed("milk") == "reported"
    factory: UnitOfWorkFactory = bench.app.services["db_manager:uow_factory"]
    async with factory() as uow:
        assert list(await uow.session.scalars(select(Note.text))) == ["boom"]
    rolled_back = bench.events.assert_event("uow.rollback", cause="error")
    assert rolled_back.as_dict()["error"].startswith(f"ZeroDivisionError: raised in {__name__}:")
    bench.events.assert_sequence("uow.rollback", "uow.close", "uow.begin", "uow.commit")


@pytest.mark.parametrize("control", [SkipHandler, CancelHandler])
async def test_control_flow_rolls_back_and_is_no_error(
    bench: Bench, control: type[Exception]
) -> None:
    """SkipHandler and CancelHandler roll the unit back, with a cause of their own."""

    async def skip(note: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Note).values(text=note.text))
            raise control

    bench.router.message.register(skip)
    with suppress(CancelHandler):  # aiogram lets it pass
        assert await bench.feed("milk") is UNHANDLED
    assert await bench.count() == 0
    bench.events.assert_event("uow.rollback", cause="control_flow")
    bench.events.assert_event("uow.close", cause="control_flow", outcome="rolled_back")


async def test_skipping_goes_to_the_next_handler(bench: Bench) -> None:
    """After SkipHandler the next handler gets the update and may write."""

    async def skip(note: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Note).values(text=note.text))
            raise SkipHandler

    bench.router.message.register(skip)
    bench.router.message.register(save)
    assert await bench.feed("milk") == "saved"
    assert await bench.count() == 1


async def test_after_unload_the_dispatcher_is_as_before(bench: Bench) -> None:
    """What the plugin registered is gone after its unload, and back after the next load."""
    got: list[object] = []

    async def look(note: Message, **data: Any) -> None:  # noqa: ARG001 -- a handler's signature
        got.append(data.get("uow_factory"))

    bench.dispatcher.message.register(look)
    before = len(bench.dispatcher.update.middleware)
    await bench.feed("milk")
    await bench.app.unload("db_manager")
    assert len(bench.dispatcher.update.middleware) == before - 1
    await bench.feed("milk")
    await bench.app.start()
    await bench.feed("milk")
    assert [factory is not None for factory in got] == [True, False, True]
