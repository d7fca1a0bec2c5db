"""`uow.send`: what was committed is sent, in the order of its chat, and nothing else is."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiogram import Bot
from aiogram.methods import GetMe, SendMessage
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import client, kept

from db_manager.config import DatabaseConfig
from db_manager.delivery.lookout import Lookout
from db_manager.delivery.table.claims import Claims
from db_manager.engine.create import create_engine
from db_manager.errors import (
    DatabaseUnavailableError,
    DbManagerError,
    RetriesExhaustedError,
    UnitOfWorkStateError,
)
from db_manager.sending import (
    DeliveryOffError,
    MessageDeadError,
    NotStorableError,
    Sending,
)
from db_manager.unit.uow import UnitOfWork
from lifecycle.testing import BotApiServer


def said(server: BotApiServer) -> dict[int, list[str]]:
    """Return the texts that each chat got, in order."""
    found: dict[int, list[str]] = {}
    for call in server.calls:
        if call.method == "sendMessage" and call.answer is not None and call.answer["ok"]:
            found.setdefault(int(call.params["chat_id"]), []).append(call.params["text"])
    return found


def to(chat: int, words: str) -> SendMessage:
    """Return a message."""
    return SendMessage(chat_id=chat, text=words)


async def test_a_message_of_a_committed_unit_is_sent(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """It arrives once the unit is committed; its row says so, and its text is erased."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            sending = uow.send(to(7, "Noted."))
            assert sending.state == "new"
        message = await sending
        assert (message.text, sending.state) == ("Noted.", "sent")
        await app.settled()
        assert await app.rows("id, lane, method, payload, state, owner, message_id") == [
            (sending.id, "42:7", "sendMessage", None, 1, None, message.message_id)
        ]
        assert await sending is message
        [event] = app.of("message.sent")
        assert (event.message, event.bot_id, event.method) == (sending.id, 42, "sendMessage")
    assert said(server) == {7: ["Noted."]}


@pytest.mark.parametrize("how", ["raises", "by hand", "cancelled", "refused by before_commit"])
async def test_a_message_of_a_unit_that_is_rolled_back_is_not_sent(
    url: URL, server: BotApiServer, bot: Bot, how: str
) -> None:
    """Whatever the reason; who waits for it is told, and the next message is sent."""

    def refuse() -> None:
        raise ZeroDivisionError

    async with kept(url, bot) as app:
        sending: Any = None

        async def work() -> None:
            nonlocal sending
            async with app.units() as uow:
                await uow.session.execute(text("SELECT 1"))
                sending = uow.send(to(7, "no"))
                if how == "by hand":
                    await uow.rollback()
                elif how == "cancelled":
                    raise asyncio.CancelledError
                elif how == "refused by before_commit":
                    uow.before_commit(refuse)
                else:
                    raise ZeroDivisionError

        try:
            await work()
        except (ZeroDivisionError, asyncio.CancelledError):
            assert how != "by hand"
        assert sending.state == "dropped"
        with pytest.raises(UnitOfWorkStateError, match="its message was dropped with it"):
            await sending
        async with app.units() as uow:
            following = uow.send(to(7, "yes"))
        await following
        assert len(await app.rows()) == 1
    assert said(server) == {7: ["yes"]}


async def test_a_message_goes_with_its_savepoint(url: URL, server: BotApiServer, bot: Bot) -> None:
    """What a part of the unit has sent is dropped with it; so is that of a unit inside."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            uow.send(to(7, "a"))
            with pytest.raises(ZeroDivisionError):
                async with uow.savepoint():
                    dropped = uow.send(to(7, "b"))
                    raise ZeroDivisionError
            with pytest.raises(ZeroDivisionError):
                async with app.units(nested="savepoint") as inner:
                    inner.send(to(7, "c"))
                    raise ZeroDivisionError
            async with app.units(nested="join") as inner:
                last = inner.send(to(7, "d"))
        await last
        assert dropped.state == "dropped"
    assert said(server) == {7: ["a", "d"]}


async def test_messages_of_a_chat_come_in_the_order_of_their_commits(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Whatever chats do beside, and however many messages a unit has."""
    async with kept(url, bot, window=3) as app:

        async def talk(chat: int) -> None:
            for n in range(12):
                async with app.units() as uow:
                    for part in range(1 + n % 3):
                        uow.send(to(chat, f"{n}.{part}"))

        await asyncio.gather(*(talk(chat) for chat in (7, 8, 9)))
        await app.settled()
    expected = [f"{n}.{part}" for n in range(12) for part in range(1 + n % 3)]
    assert said(server) == dict.fromkeys((7, 8, 9), expected)


async def test_it_is_the_last_statement_of_the_unit(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A callback before the commit may still send, and pending objects are written before."""
    async with kept(url, bot) as app:
        order = []
        async with app.units() as uow:
            uow.send(to(7, "a"))

            async def more() -> None:
                order.append(len(await app_rows(uow)))
                uow.send(to(7, "b"))

            uow.before_commit(more)
        await app.settled()
        assert order == [0]
    assert said(server) == {7: ["a", "b"]}


async def app_rows(uow: UnitOfWork) -> list[Any]:
    """Return the rows that a unit sees."""
    return list(await uow.connection.execute(text("SELECT id FROM delivery__outbox")))


async def test_waiting_in_the_open_unit_is_an_error(url: URL, bot: Bot) -> None:
    """It would wait for itself."""
    async with kept(url, bot) as app, app.units() as uow:
        sending = uow.send(to(7, "a"))
        with pytest.raises(UnitOfWorkStateError, match="await it after the block"):
            await sending


async def test_a_scheduled_message_holds_nobody_up(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """It is sent when it is due, and what was written after it is not held back meanwhile."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            late = uow.send(to(7, "later"), at=datetime.now(UTC) + timedelta(seconds=0.7))
            never = uow.send(to(7, "never"), at=datetime.now(UTC) + timedelta(days=1))
            soon = uow.send(to(7, "now"))
        await soon
        assert (late.state, said(server)) == ("open", {7: ["now"]})
        async with app.units() as uow:
            again = uow.send(to(7, "again"))
        await again
        assert late.state == "open"
        await late
        assert never.state == "open"
        with pytest.raises(ValueError, match="at has no timezone"):
            async with app.units() as uow:
                uow.send(to(7, "x"), at=datetime(2030, 1, 1))  # noqa: DTZ001 -- what is refused
    assert said(server) == {7: ["now", "again", "later"]}


async def test_what_was_due_while_nothing_ran_is_sent_at_the_start(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A worker without a bot writes; who has the bot sends, and the worker may wait for that."""
    async with kept(url) as worker:
        async with worker.units() as uow:
            first = uow.send(to(7, "first").as_(bot))
            uow.send(to(7, "second").as_(bot))
        assert (await worker.rows("state, owner")) == [(0, None), (0, None)]
        assert first.state == "open"
    assert said(server) == {}
    async with kept(url, bot) as app:
        await app.settled()
    assert said(server) == {7: ["first", "second"]}


async def test_a_worker_may_wait_for_what_another_process_sends(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """It learns that a message was sent, or why not; the answer itself is the other's."""
    server.fail_next("sendMessage", error_code=400, description="Bad Request: no")
    async with kept(url) as worker, kept(url, bot):
        async with worker.units() as uow:
            dead, sent = (uow.send(to(7, text).as_(bot)) for text in "ab")
        with pytest.raises(MessageDeadError, match="Bad Request: no"):
            await dead
        assert await sent is None
        assert sent.state == "sent"


async def test_a_retried_unit_sends_once(url: URL, server: BotApiServer, bot: Bot) -> None:
    """Attempts of `run` that failed send nothing, and hold nobody up."""
    async with kept(url, bot) as app:
        attempts: list[Sending] = []

        async def work(uow: UnitOfWork) -> None:
            attempts.append(uow.send(to(7, f"attempt {len(attempts) + 1}")))
            await uow.session.execute(text("SELECT 1"))
            uow.before_commit(fail_once)

        def fail_once() -> None:
            if len(attempts) == 1:
                raise DatabaseUnavailableError("for a moment")

        await app.units.run(work)
        await attempts[-1]
        assert [each.state for each in attempts] == ["dropped", "sent"]
        with pytest.raises(RetriesExhaustedError):
            attempts.clear()
            await app.units.run(work, attempts=1)
    assert said(server) == {7: ["attempt 2"]}


# -- what is refused -----------------------------------------------------------------------------


async def test_without_the_plugin_it_says_what_to_add(url: URL, bot: Bot) -> None:
    """So it does when the outbox is off."""
    async with kept(url, bot, outbox=False) as app, app.units() as uow:
        with pytest.raises(DeliveryOffError, match=r'plugins = \["db_manager", "delivery"\]'):
            uow.send(to(7, "a"))


async def test_a_unit_that_reads_sends_nothing(url: URL, bot: Bot) -> None:
    """It writes nothing, so it cannot keep a message."""
    async with kept(url, bot) as app, app.units(read_only=True) as uow:
        with pytest.raises(UnitOfWorkStateError, match="open it without read_only"):
            uow.send(to(7, "a"))


async def test_what_a_row_cannot_keep_is_named(url: URL, bot: Bot) -> None:
    """It is refused at once, before anything is written."""
    deep = SendMessage(chat_id=7, text="a", extra={"deep": b"x"})
    async with kept(url, bot) as app, app.units() as uow:
        with pytest.raises(
            NotStorableError, match=r"sendMessage .* extra\['deep'\] is of the type"
        ):
            uow.send(deep)
        with pytest.raises(TypeError, match="not awaited"):
            uow.send("hello")


async def test_which_bot_is_asked_when_there_are_several(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A call that is bound to none is refused, and says how to bind it."""
    async with client(server, "43:other") as other, kept(url, bot, other) as app:
        async with app.units() as uow:
            with pytest.raises(ValueError, match=r"Bind the call: method\.as_\(bot\)"):
                uow.send(to(7, "a"))
            sending = uow.send(to(7, "b").as_(bot))
        await sending
        assert await app.rows("bot_id") == [(42,)]


async def test_a_message_of_another_process_s_bot_is_left_to_it(url: URL, bot: Bot) -> None:
    """A process that has some bot does not claim what another bot is to send."""
    other = Bot("43:other")
    async with kept(url, bot, poll=0.05) as app:
        async with app.units() as uow:
            uow.send(SendMessage(chat_id=7, text="mine"))
            uow.send(SendMessage(chat_id=7, text="of the other one").as_(other))
        await app.events.wait_for("message.sent")
        for _ in range(2):  # looks
            async with app.units() as uow:
                sending = uow.send(SendMessage(chat_id=7, text="mine too"))
            await sending
        rows = await app.rows("bot_id, state, owner")
        assert (43, 0, None) in rows
        assert not app.of("message.retried")


@pytest.mark.parametrize("early_timers", [0.05], indirect=True)
@pytest.mark.usefixtures("early_timers")
async def test_no_look_is_left_out_that_is_due(
    url: URL, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where timers go off early there is a look at everything each `poll` seconds all the same."""
    begun, whole = 0, asyncio.Semaphore(0)
    look, levels = Lookout._look, Claims.levels

    async def counted(lookout: Lookout) -> None:
        nonlocal begun
        begun += 1
        await look(lookout)

    async def noted(claims: Claims) -> tuple[int, float]:
        whole.release()
        return await levels(claims)

    monkeypatch.setattr(Lookout, "_look", counted)
    monkeypatch.setattr(Claims, "levels", noted)
    async with kept(url, bot, poll=0.1):
        for _ in range(4):
            await whole.acquire()
        assert begun == 4


async def test_a_call_without_a_chat_goes_beside_the_chats(url: URL, bot: Bot) -> None:
    """It waits for nobody, and its answer is what Telegram says."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            uow.send(to(7, "a"))
            sending = uow.send(GetMe())
        assert (await sending).id == 42
        assert len({lane for (lane,) in await app.rows("lane")}) == 2


def test_mariadb_is_refused_by_name() -> None:
    """Statements of the outbox are not known for it."""
    engine = create_engine(DatabaseConfig(url="mysql+asyncmy://nobody@localhost/bot"))
    with pytest.raises(DbManagerError, match="on PostgreSQL and SQLite, not on mysql"):
        Claims(engine, has_members=True)
