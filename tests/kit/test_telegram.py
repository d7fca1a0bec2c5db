"""The local Telegram: people write, the bot is the real one, and nothing is waited for."""

import asyncio

import pytest
from aiogram import Bot, Dispatcher, F
from aiogram.exceptions import TelegramForbiddenError
from aiogram.filters import Command
from aiogram.methods import SendMessage
from aiogram.types import (
    CallbackQuery,
    ErrorEvent,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
)
from sqlalchemy import BigInteger, func, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.testing import Faults, Sandbox
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import run_polling
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.testing import LocalTelegram
from observability.testing import EventRecorder


class Parrot(Base):
    """A text that was said."""

    __tablename__ = "parrots__parrot"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger)


COUNT = select(func.count()).select_from(Parrot)
YES = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Yes", callback_data="y")]])


def dispatcher() -> Dispatcher:
    """Return a dispatcher with the handlers of a small bot."""
    dispatcher = Dispatcher(greeting="Hello")

    @dispatcher.message(Command("keep"))
    async def keep(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.session.add(Parrot(chat_id=message.chat.id))
        await message.answer("Kept.")

    @dispatcher.message(Command("boom"))
    async def boom(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.session.add(Parrot(chat_id=message.chat.id))
            await uow.session.flush()
            raise LookupError(message.text)

    @dispatcher.message(Command("hang"))
    async def hang(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.session.add(Parrot(chat_id=message.chat.id))
            await uow.session.flush()
            await message.answer("Wait …")
            await asyncio.Event().wait()

    @dispatcher.message(Command("ask"))
    async def ask(message: Message) -> None:
        await message.answer("Sure?", reply_markup=YES)

    @dispatcher.callback_query(F.data == "y")
    async def sure(query: CallbackQuery) -> None:
        await query.answer("Good.")

    @dispatcher.message(Command("data"))
    async def data(message: Message, greeting: str, bots: tuple[Bot], bot: Bot) -> SendMessage:
        assert bots == (bot,)
        return message.answer(f"{greeting}.")  # aiogram sends what a handler returns

    return dispatcher


async def test_an_update_is_handled_when_say_returns(
    sandbox: Sandbox, telegram: LocalTelegram, events: EventRecorder
) -> None:
    """The row is there, the reply is read, and the events belong to the update."""
    await telegram.run(sandbox.application(), dispatcher())
    ada = telegram.user(7, "Ada")
    number = await ada.say("/keep")
    assert ada.unread[0].text == "Kept."
    async with sandbox.uow_factory() as uow:
        assert await uow.session.scalar(COUNT) == 1
    events.update(number).topic("uow.*").assert_exactly("uow.begin", "uow.commit", "uow.close")
    await telegram.end()
    events.assert_sequence("app.started", "uow.close", "app.drained", "app.stopped")


async def test_the_error_of_a_handler_reaches_the_test(
    sandbox: Sandbox, telegram: LocalTelegram, events: EventRecorder
) -> None:
    """What no error handler handles is raised where the message was sent; nothing was kept."""
    bot = await telegram.run(sandbox.application(), dispatcher())
    ada = telegram.user(7, "Ada")
    with pytest.raises(LookupError, match="/boom"):
        await ada.say("/boom")
    events.assert_event("uow.rollback", cause="error")
    events.assert_none("uow.commit")

    @bot.error()
    async def apologize(event: ErrorEvent) -> None:
        assert event.update.message is not None
        await event.update.message.answer("Sorry.")

    await ada.say("/boom")
    assert (await ada.reply()).text == "Sorry."


async def test_buttons_groups_and_returned_answers(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """What people do beside writing to the bot alone works as on Telegram."""
    await telegram.run(sandbox.application(), dispatcher())
    ada, friends = telegram.user(7, "Ada"), telegram.group(-5, "Friends")
    await ada.say("/ask", chat=friends)
    await ada.press(await friends.reply(), "y")
    assert (await telegram.call("answerCallbackQuery")).params["text"] == "Good."
    await ada.say("/data")
    assert (await ada.reply()).text == "Hello."


async def test_the_client_of_the_bot_is_there(telegram: LocalTelegram, bot: Bot) -> None:
    """Code that needs only a `Bot` is tested without running one."""
    ada = telegram.user(7, "Ada")
    await bot.send_message(7, "News!")
    assert (await ada.reply()).text == "News!"
    ada.blocked = True
    with pytest.raises(TelegramForbiddenError):
        await bot.send_message(7, "More news!")


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_dispatcher_is_free_for_the_next_test(
    sandbox: Sandbox, telegram: LocalTelegram, turn: int
) -> None:
    """A dispatcher of a module serves one application after the other, as it was."""
    before = list(SHARED.update.outer_middleware), list(SHARED.message.middleware)
    await telegram.run(sandbox.application(), SHARED)
    ada = telegram.user(turn, "Ada")
    await ada.say("/keep")
    assert (await ada.reply()).text == "Kept."
    await telegram.end()
    await telegram.end()
    assert before == (list(SHARED.update.outer_middleware), list(SHARED.message.middleware))


SHARED = dispatcher()


async def test_a_test_may_hold_a_unit_of_its_own(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    """The handler runs in another task than the test, as it does in life."""
    app = sandbox.application()
    await telegram.run(app, dispatcher())
    factory = app.services["db_manager:uow_factory"]
    async with factory(read_only=True) as uow:
        await uow.session.execute(COUNT)
        await telegram.user(7, "Ada").say("/keep")


async def test_fixtures_come_in_any_order(telegram: LocalTelegram, sandbox: Sandbox) -> None:
    """A sandbox that is closed before the bot has shut down unloads the application itself."""
    await telegram.run(sandbox.application(), dispatcher())
    await telegram.user(7, "Ada").say("/keep")


async def test_a_cancelled_update_rolls_back(
    sandbox: Sandbox, telegram: LocalTelegram, events: EventRecorder
) -> None:
    """Who cancels `say` cancels the handler."""
    await telegram.run(sandbox.application(), dispatcher())
    ada = telegram.user(7, "Ada")
    saying = asyncio.create_task(ada.say("/hang"))
    await ada.reply()
    saying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saying
    events.assert_event("uow.rollback", cause="cancelled")


async def test_a_bot_that_does_not_start(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """The failure of a plugin comes out of `run`, and the next one can run."""

    class Reluctant(Plugin):
        name = "reluctant"

        async def start(self, context: PluginContext) -> None:
            """Start."""

    app, bot = sandbox.application(Reluctant), dispatcher()
    faults.hang_start(app, "reluctant")
    with pytest.raises(PluginFailedError):
        await telegram.run(app, bot)
    await telegram.run(sandbox.application(), bot)
    with pytest.raises(RuntimeError, match="a bot runs already"):
        await telegram.run(sandbox.application(), dispatcher())
    await telegram.user(7, "Ada").say("/keep")


async def test_a_bot_that_polls_is_served_too(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    """Without `run` it is the Bot API server that it was: a program polls it."""
    app, bot = sandbox.application(), dispatcher()
    running = asyncio.create_task(run_polling(app, bot, telegram.bot))
    ada = telegram.user(7, "Ada")
    await ada.say("/keep")
    assert (await ada.reply()).text == "Kept."
    await bot.stop_polling()
    await running


async def test_another_event_loop_is_refused(telegram: LocalTelegram) -> None:
    """Loops that do not fit are said at once, with the setting, instead of a hang."""

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match=r"another event loop.*asyncio_default_fixture"):
            await telegram.run(Application([]))

    await asyncio.to_thread(asyncio.run, elsewhere())
