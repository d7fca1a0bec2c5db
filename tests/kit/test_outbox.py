"""A test sees what became of messages, and lets their process die where no test could hit it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from aiogram import Router
from aiogram.filters import Command, CommandObject
from aiogram.types import Message
from sqlalchemy.engine import URL

from db_manager.delivery import DeliveryPlugin
from db_manager.errors import DbManagerError
from db_manager.testing import Faults, Outbox, Sandbox
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import include_router
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.testing import LocalTelegram
from observability.testing import EventRecorder


@pytest.fixture(scope="session", params=["sqlite", "asyncpg"])
def sandbox_url(request: pytest.FixtureRequest) -> str | URL:
    """Sandboxes on SQLite, and on PostgreSQL."""
    if request.param == "sqlite":
        return ""
    admin: URL = request.getfixturevalue("postgres_admin")
    return admin.set(drivername=f"postgresql+{request.param}")


class Speaker(Plugin):
    """Says what it is told to, as a part of a unit."""

    name = "speaker"
    requires = ("db_manager", "delivery")

    async def load(self, context: PluginContext) -> None:
        """Include the handlers."""
        router = Router()
        router.message.register(self.say, Command("say"))
        router.message.register(self.once, Command("once"))
        router.message.register(self.later, Command("later"))
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    async def say(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/say a b: a message for each word."""
        async with uow_factory() as uow:
            for word in (command.args or "").split():
                uow.send(message.answer(word))

    async def once(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/once a: rather not than twice."""
        async with uow_factory() as uow:
            uow.send(message.answer(command.args or ""), once=True)

    async def later(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/later: tomorrow."""
        async with uow_factory() as uow:
            uow.send(message.answer("later"), at=datetime.now(UTC) + timedelta(days=1))


def speaker(sandbox: Sandbox) -> Application:
    """Return the application, as each of its processes makes it."""
    return sandbox.application(
        Speaker, DeliveryPlugin, config={"delivery": {"poll": 0.05, "lease": 0.5}}
    )


async def test_what_was_sent_and_what_waits_is_seen(
    sandbox: Sandbox, telegram: LocalTelegram, outbox: Outbox
) -> None:
    """An open message has its fields; of one that was sent they are erased, as in the table."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    await ada.say("/say yes")
    await ada.say("/later")
    sent, open_ = await outbox.settled()
    assert (sent.state, sent.method, sent.fields, sent.once) == ("sent", "sendMessage", {}, False)
    assert (sent.attempts, sent.error) == (1, "")
    assert sent.message_id == (await ada.reply()).message_id
    assert (open_.state, open_.fields) == ("open", {"chat_id": 7, "text": "later"})
    assert timedelta(hours=23) < open_.due - datetime.now(UTC) < timedelta(hours=25)
    assert await outbox.messages() == [sent, open_]


async def test_what_telegram_refuses_is_dead_and_what_nobody_knows_is_unknown(
    sandbox: Sandbox, telegram: LocalTelegram, outbox: Outbox
) -> None:
    """With the reason."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    telegram.lose_next("sendMessage")
    await ada.say("/once maybe")
    await ada.block()
    await ada.say("/say no")
    unknown, dead = await outbox.settled()
    assert (unknown.state, unknown.once) == ("unknown", True)
    assert "TelegramNetworkError" in unknown.error
    assert dead.state == "dead"
    assert "bot was blocked by the user" in dead.error
    assert dead.fields["text"] == "no"


async def test_what_does_not_settle_is_named(
    sandbox: Sandbox, telegram: LocalTelegram, outbox: Outbox
) -> None:
    """The error shows the messages that are still open."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    telegram.fail_next("sendMessage", error_code=429, retry_after=60)
    await ada.say("/say wait")
    with pytest.raises(AssertionError, match=r"open after 0\.3 s:\n.*sendMessage.*'wait'"):
        await outbox.settled(0.3)


async def test_without_the_plugin_there_is_no_outbox(sandbox: Sandbox, outbox: Outbox) -> None:
    """The error names what is missing."""
    await sandbox.without_tables()
    with pytest.raises(DbManagerError, match="start an application with the plugin `delivery`"):
        await outbox.messages()


async def test_a_reply_survives_a_death_before_it_was_sent(
    sandbox: Sandbox,
    telegram: LocalTelegram,
    outbox: Outbox,
    faults: Faults,
    events: EventRecorder,
) -> None:
    """The dead send nothing, not even what is written later; the next process sends all of it."""
    await telegram.run(speaker(sandbox))
    ada, bob = telegram.user(7, "Ada"), telegram.user(8, "Bob")
    telegram.fail_next("sendMessage", error_code=429, retry_after=60)
    await bob.say("/say z")
    await events.wait_for("message.retried")
    faults.kill_between("commit", "send")
    await ada.say("/say a b")
    await ada.say("/say c")
    assert [each.state for each in await outbox.messages()] == ["open"] * 4
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("message ")]
    await telegram.end()
    assert not ada.unread
    assert not bob.unread
    await telegram.run(speaker(sandbox))
    assert [(await ada.reply()).text for _ in "abc"] == ["a", "b", "c"]
    assert (await bob.reply()).text == "z"
    assert [each.state for each in await outbox.settled()] == ["sent"] * 4
    assert not ada.unread


async def test_a_death_after_it_was_sent_sends_it_twice(
    sandbox: Sandbox, telegram: LocalTelegram, outbox: Outbox, faults: Faults
) -> None:
    """Telegram has the first one, and nobody noted that; the second one was never sent."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    faults.kill_between("send", "mark", handler="say")
    await ada.say("/say a b")
    assert (await ada.reply()).text == "a"
    await telegram.end()
    assert [each.state for each in await outbox.messages()] == ["open", "open"]
    await telegram.run(speaker(sandbox))
    assert [(await ada.reply()).text for _ in "ab"] == ["a", "b"]
    assert [each.state for each in await outbox.settled()] == ["sent", "sent"]
    assert not ada.unread


@pytest.mark.parametrize(("moment", "arrived"), [(("commit", "send"), 0), (("send", "mark"), 1)])
async def test_with_once_it_is_unknown(
    sandbox: Sandbox,
    telegram: LocalTelegram,
    outbox: Outbox,
    faults: Faults,
    events: EventRecorder,
    moment: tuple[str, str],
    arrived: int,
) -> None:
    """Whether it was sent or not: nobody can know that, and it is not sent again."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    await ada.say("/say first")
    assert (await ada.reply()).text == "first"
    await outbox.settled()  # so it is a process that claims what it writes
    faults.kill_between(*moment)  # type: ignore[arg-type]  # one of the two
    await ada.say("/once a")
    if arrived:
        assert (await ada.reply()).text == "a"
    await telegram.end()
    await telegram.run(speaker(sandbox))
    await ada.say("/say b")
    assert (await ada.reply()).text == "b"
    assert [each.state for each in await outbox.settled()] == ["sent", "unknown", "sent"]
    assert not ada.unread
    events.assert_none("member.expelled")


async def test_it_strikes_who_is_meant(
    sandbox: Sandbox,
    telegram: LocalTelegram,
    outbox: Outbox,
    faults: Faults,
    events: EventRecorder,
) -> None:
    """Units of other handlers, and those without a message, are no occasion; the dead stay so."""
    await telegram.run(speaker(sandbox))
    ada = telegram.user(7, "Ada")
    faults.kill_between("commit", "send", handler="once")
    await ada.say("/say")  # nothing
    await ada.say("/say a")
    assert (await ada.reply()).text == "a"
    await outbox.settled()  # else the next one would wait behind it, and not be begun
    await ada.say("/once b")
    await ada.say("/say c")
    assert [each.state for each in await outbox.messages()][-2:] == ["unknown", "open"]
    with pytest.raises(AssertionError):  # it would join anew with its next sign of life
        await events.wait_for("member.expelled", timeout=0.5)
    assert not ada.unread


async def test_one_that_never_struck_is_named(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    """As every fault; and what is no moment is refused."""
    faults = Faults(sandbox)
    with pytest.raises(ValueError, match="nothing is between 'send' and 'commit'"):
        faults.kill_between("send", "commit")  # type: ignore[arg-type]  # what is refused
    await telegram.run(speaker(sandbox))
    faults.kill_between("send", "mark", handler="later")
    await telegram.user(7, "Ada").say("/later")  # committed, and not sent before tomorrow
    with pytest.raises(AssertionError, match=r"kill_between send and mark\(handler='later'\)"):
        faults.close()
