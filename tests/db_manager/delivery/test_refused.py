"""What Telegram's answers mean for a message, and for those behind it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from aiogram import Bot
from aiogram.methods import AnswerCallbackQuery, EditMessageText, SendMessage
from sqlalchemy.engine import URL
from support.kept import PATIENCE, Kept, client, kept

from db_manager.sending import MessageDeadError, MessageUnknownError, Sending
from lifecycle.testing import BotApiServer


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own: answers have nothing to do with drivers."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found


async def send(app: Kept, *words: str, once: bool = False) -> list[Sending]:
    """Send messages to Ada in one unit."""
    async with app.units() as uow:
        return [uow.send(SendMessage(chat_id=7, text=each), once=once) for each in words]


def said(server: BotApiServer) -> list[str]:
    """Return what Ada got."""
    calls = [call for call in server.calls if call.method == "sendMessage"]
    return [call.params["text"] for call in calls if call.answer and call.answer["ok"]]


async def test_429_is_obeyed_to_the_second(url: URL, server: BotApiServer, bot: Bot) -> None:
    """The chat waits as long as Telegram says, in its order, and no attempt is counted."""
    server.fail_next("sendMessage", error_code=429, retry_after=1)
    async with kept(url, bot, attempts=1) as app:
        begun = asyncio.get_running_loop().time()
        _, last = await send(app, "a", "b")
        await last
        assert asyncio.get_running_loop().time() - begun >= 1
        [event] = app.of("message.retried")
        assert (event.wait, event.attempts) == (1.0, 1)
    assert said(server) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "what"),
    [(400, "Bad Request"), (404, "Not Found"), (413, "Request Entity Too Large")],
)
async def test_what_is_refused_is_dead_and_lets_others_go(
    url: URL, server: BotApiServer, bot: Bot, code: int, what: str
) -> None:
    """The row says what Telegram said and keeps the text; the event has no words of it."""
    server.fail_next("sendMessage", error_code=code, description=f"{what}: chat of Ada")
    async with kept(url, bot) as app:
        dead, last = await send(app, "a", "b")
        with pytest.raises(MessageDeadError, match="chat of Ada"):
            await dead
        await last
        await app.settled()
        [(state, error, payload), (sent, _, erased)] = await app.rows("state, error, payload")
        assert (state, sent, erased) == (2, 1, None)
        assert "chat of Ada" in error
        assert '"a"' in payload
        [event] = app.of("message.dead")
        assert "Ada" not in event.error
    assert said(server) == ["b"]


async def test_a_chat_that_blocks_the_bot_is_told(url: URL, server: BotApiServer, bot: Bot) -> None:
    """403 is dead, with an event that names the chat."""
    server.fail_next("sendMessage", error_code=403)
    async with kept(url, bot) as app:
        [dead] = await send(app, "a")
        with pytest.raises(MessageDeadError):
            await dead
        [event] = app.of("chat.blocked")
        assert (event.bot_id, event.chat) == (42, 7)


async def test_a_refused_token_lets_nothing_die(url: URL, server: BotApiServer, bot: Bot) -> None:
    """401: the messages wait, and the plugin is degraded."""
    server.fail_next("sendMessage", error_code=401)
    async with kept(url, bot) as app:
        [sending] = await send(app, "a")
        await app.events.wait_for("plugin.degraded", plugin="delivery")
        assert sending.state == "open"


async def test_a_refused_bot_keeps_no_other_waiting(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """However many of its messages wait: each bot has places of its own."""
    async with BotApiServer("43:refused") as refusing, client(refusing) as refused:
        refusing.fail_next("sendMessage", error_code=401, times=10_000)
        async with kept(url, bot, refused) as app:
            async with app.units() as uow:
                for chat in range(600):
                    uow.send(SendMessage(chat_id=chat + 1, text="a").as_(refused))
            await app.events.wait_for("plugin.degraded", plugin="delivery")
            async with app.units() as uow:
                sending = uow.send(SendMessage(chat_id=7, text="b").as_(bot))
            async with asyncio.timeout(PATIENCE):
                await sending
    assert said(server) == ["b"]


@pytest.mark.parametrize("fault", ["500", "request", "answer"])
async def test_an_outage_is_waited_for(
    url: URL, server: BotApiServer, bot: Bot, fault: str
) -> None:
    """5xx and lost connections are tried again; of a lost answer Telegram has the message twice."""
    if fault == "500":
        server.fail_next("sendMessage", times=2)
    else:
        server.lose_next("sendMessage", "request" if fault == "request" else "answer")
    async with kept(url, bot) as app:
        _, last = await send(app, "a", "b")
        await last
        await app.settled()
        assert {event.attempts for event in app.of("message.retried")} <= {1, 2}
    assert said(server) == (["a", "a", "b"] if fault == "answer" else ["a", "b"])


async def test_an_outage_of_telegram_that_lasts_too_long(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """After `retry_for` seconds a message is dead."""
    server.fail_next("sendMessage", times=100)
    async with kept(url, bot, retry_for=0) as app:
        [dead] = await send(app, "a")
        with pytest.raises(MessageDeadError, match="TelegramServerError"):
            await dead


@pytest.mark.parametrize("fault", ["500", "answer", "refused"])
async def test_once_is_rather_unknown_than_twice(
    url: URL, server: BotApiServer, bot: Bot, fault: str
) -> None:
    """Unless the connection was refused: then nothing was sent, and it is tried again."""
    async with kept(url, bot) as app:
        if fault == "refused":
            await server.stop()
            [sending] = await send(app, "a", once=True)
            await app.events.wait_for("message.retried")
            await server.start()
            await sending
        else:
            if fault == "500":
                server.fail_next("sendMessage")
            else:
                server.lose_next("sendMessage", "answer")
            [sending] = await send(app, "a", once=True)
            with pytest.raises(MessageUnknownError, match="is not sent again"):
                await sending
            await app.settled()
            assert (await app.rows("state, once")) == [(3, True)]
            assert len(app.of("message.unknown")) == 1
    assert len(said(server)) == (0 if fault == "500" else 1)


async def test_a_group_that_has_moved_gets_it_there(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """`migrate_to_chat_id` is followed at once, with an event."""
    server.fail_next("sendMessage", error_code=400, migrate_to_chat_id=8)
    async with kept(url, bot) as app:
        [sending] = await send(app, "a")
        assert (await sending).chat.id == 8
        [event] = app.of("chat.migrated")
        assert (event.chat, event.to) == (7, 8)


async def test_an_answer_that_comes_too_late_expires(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Telegram takes no answer to a callback after minutes, so it is not asked."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            long_ago = datetime.now(UTC) - timedelta(seconds=200)
            sending = uow.send(AnswerCallbackQuery(callback_query_id="1"), at=long_ago)
        with pytest.raises(MessageDeadError, match="expired"):
            await sending
        await app.settled()
        assert await app.rows("state") == [(4,)]
        [event] = app.of("message.dead")
        assert event.expired
    assert not [call for call in server.calls if call.method == "answerCallbackQuery"]


async def test_an_edit_that_was_done_before_is_done(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """After a lost answer Telegram says that nothing is to be changed: it was sent."""
    async with kept(url, bot) as app:
        [sending] = await send(app, "a")
        message = await sending
        server.lose_next("editMessageText", "answer")
        async with app.units() as uow:
            edit = EditMessageText(chat_id=7, message_id=message.message_id, text="b")
            sending = uow.send(edit)
        await sending
        assert sending.state == "sent"


async def test_three_chats_that_are_told_to_wait_mean_the_bot(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A 429 does not say who is meant: when it comes to three chats at once, all wait."""
    server.fail_next("sendMessage", error_code=429, retry_after=1, times=3)
    async with kept(url, bot) as app:
        async with app.units() as uow:
            for chat in (7, 8, 9):
                uow.send(SendMessage(chat_id=chat, text="a"))
        await app.until(lambda: _there(app, "message.retried", 3))
        begun = asyncio.get_running_loop().time()
        async with app.units() as uow:
            beside = uow.send(SendMessage(chat_id=7, text="b", business_connection_id="x"))
        await beside
        assert asyncio.get_running_loop().time() - begun >= 0.7


async def _there(app: Kept, topic: str, number: int) -> bool:
    return len(app.of(topic)) >= number


async def test_an_error_of_the_client_itself_is_tried_a_few_times(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A middleware of the session that raises kills its message after `attempts`, and no other."""
    calls = []

    async def fail(make_request: object, bot: Bot, method: SendMessage) -> object:
        calls.append(method.text)
        if method.text == "a":
            raise ZeroDivisionError
        return await make_request(bot, method)  # type: ignore[operator]  # aiogram's

    bot.session.middleware(fail)  # type: ignore[arg-type]  # of one method
    async with kept(url, bot, attempts=2) as app:
        dead, last = await send(app, "a", "b")
        with pytest.raises(MessageDeadError, match="ZeroDivisionError"):
            await dead
        await last
    assert calls == ["a", "a", "b"]
    assert said(server) == ["b"]


async def test_a_method_of_a_newer_release_waits_for_it(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A row that this release cannot read stays, with an event; other chats go on."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            sending = uow.send(SendMessage(chat_id=8, text="a"), at=datetime.now(UTC) + _SOON)
        change = "UPDATE delivery__outbox SET method = 'sendDream'"
        await app.sql(change)
        [event] = [await app.events.wait_for("message.retried")]
        assert event.as_dict()["method"] == "sendDream"
        [last] = await send(app, "b")
        await last
        assert sending.state == "open"
    assert said(server) == ["b"]


_SOON = timedelta(seconds=0.3)
