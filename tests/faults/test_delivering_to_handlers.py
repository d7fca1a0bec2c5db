"""What handlers do with their units, and what becomes of the update: O11."""

from collections.abc import Callable
from typing import Any

from aiogram import Dispatcher
from aiogram.methods import TelegramMethod
from aiogram.types import ErrorEvent, Message
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import client, polling

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.testing import BotApiServer

Row = Callable[..., None]
_WRITE = text("INSERT INTO handled_effect VALUES (:said)")
_UPDATES = (
    "SELECT done_at IS NOT NULL, parked_at IS NULL FROM delivery__inbox "
    "WHERE update_id > 0 ORDER BY id"
)
#: What a handler does, and what is kept of it.
KINDS = {
    "one": ["one"],
    "two": ["two"],  # the second one is refused
    "detached": ["beside detached", "detached"],
    "none": [],
    "returned": ["returned"],
    "raises": ["raises"],  # after its unit
}


async def test_an_update_is_done_once_whatever_its_handler_does(
    database_url: URL, row: Row
) -> None:
    """O11: with two units, one detached, none, a method returned, or an error after the unit."""
    dispatcher, errors = Dispatcher(), list[str]()

    @dispatcher.errors()
    async def note(event: ErrorEvent) -> None:
        errors.append(type(event.exception).__name__)

    @dispatcher.message()
    async def handle(
        message: Message, uow_factory: UnitOfWorkFactory
    ) -> TelegramMethod[Any] | None:
        kind = message.text or ""
        if kind == "none":
            return None
        if kind == "detached":
            async with uow_factory(detached=True) as uow:
                await uow.connection.execute(_WRITE, {"said": "beside detached"})
        for _ in range(2 if kind == "two" else 1):
            async with uow_factory() as uow:
                await uow.connection.execute(_WRITE, {"said": kind})
        if kind == "raises":
            raise ValueError
        return message.answer(kind) if kind == "returned" else None

    async with (
        BotApiServer() as server,
        client(server) as bot,
        polling(database_url, dispatcher, bot) as app,
    ):
        await app.sql("CREATE TABLE handled_effect (said text)")
        for kind in KINDS:
            await server.user(7, "Ada").say(kind)

        async def are_done() -> bool:
            return await app.sql(_UPDATES) == [(True, True)] * len(KINDS)

        await app.until(are_done)
        await app.settled()
        effects = [said for (said,) in await app.sql("SELECT said FROM handled_effect")]
        retried = app.of("update.retried")
        sent = [call.params["text"] for call in server.calls if call.method == "sendMessage"]
    assert effects == [said for kept in KINDS.values() for said in kept]
    assert errors == ["UpdateCompletedError", "ValueError"]
    assert (sent, retried) == (["returned"], [])
    row(
        "O11",
        load=f"{database_url.get_backend_name()}: handlers with one unit, two, a detached one, "
        "none, a method returned, an error after the unit",
        result="each done once; the second unit was refused; each error was told once",
    )
