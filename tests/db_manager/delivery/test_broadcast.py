"""`uow.broadcast`: one message for many chats, each gets it, and the counts are exact."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
from aiogram import Bot
from aiogram.methods import GetMe, SendMessage, SendPhoto
from aiogram.types import BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup
from sqlalchemy import BigInteger, Column, MetaData, String, Table, func, select
from sqlalchemy.engine import URL
from support.kept import PATIENCE, Kept, kept

from db_manager.delivery import EACH, BroadcastCounts, Broadcasts
from db_manager.delivery.table.claims import SENT, Claims
from db_manager.dialects.known import dialect_at
from db_manager.errors import UnitOfWorkStateError
from db_manager.sending import DeliveryOffError, NotStorableError
from lifecycle.testing import BotApiServer

GUESTS = Table("hall__guest", MetaData(), Column("chat_id", BigInteger), Column("name", String))
CHATS = select(GUESTS.c.chat_id)
#: How a message ends that was sent.
ENDED = {"owner": 1, "state": SENT, "message_id": 5, "error": None, "attempts": 1}
#: As fast as it goes.
FAST = {"bulk_rate": 1000}


@pytest.fixture(params=["sqlite", "postgres"])
def either_url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own; psycopg has the tests that are about statements."""
    found: URL = request.getfixturevalue(f"{request.param}_database")
    return found


def everybody(words: str = "We are back.") -> SendMessage:
    """Return a message for each chat."""
    return SendMessage(chat_id=EACH, text=words)


async def invite(app: Kept, *guests: tuple[int | None, str | None]) -> None:
    """Let these be the guests."""
    async with app.units() as uow:
        await uow.connection.run_sync(lambda c: GUESTS.create(c, checkfirst=True))
        rows = [{"chat_id": chat, "name": name} for chat, name in guests]
        if rows:
            await uow.connection.execute(GUESTS.insert(), rows)


def service(app: Kept) -> Broadcasts:
    """Return the service of an application."""
    found: Broadcasts = app.app.services["delivery:broadcasts"]
    return found


async def crowd(server: BotApiServer, number: int) -> list[int]:
    """Return chats of so many people who have written to the bot."""
    chats = list(range(100, 100 + number))
    for chat in chats:
        await server.user(chat, f"U{chat}").say("/start")
    return chats


async def over(app: Kept, number: int) -> BroadcastCounts:
    """Wait for the end of a broadcast, and return its counts."""
    await app.events.wait_for("broadcast.ended", timeout=PATIENCE, broadcast=number)
    return await service(app).progress(number)


def said(server: BotApiServer) -> list[tuple[int, str]]:
    """Return what each chat got, in the order of the chats."""
    return sorted(
        (int(call.params["chat_id"]), call.params["text"])
        for call in server.calls
        if call.method == "sendMessage" and call.answer is not None and call.answer["ok"]
    )


async def test_each_chat_gets_it_once(url: URL, server: BotApiServer, bot: Bot) -> None:
    """Also one that the SELECT finds twice, and one that the unit has just added; not a NULL."""
    async with kept(url, bot, **FAST) as app:
        await invite(app, (7, "Ada"), (8, "Bob"), (8, "Bob"), (None, "Nobody"))
        async with app.units() as uow:
            await uow.connection.execute(GUESTS.insert(), {"chat_id": 9, "name": "Eve"})
            number = await uow.broadcast(everybody(), to=CHATS)
        counts = await over(app, number)
        assert counts == BroadcastCounts(
            number=number, state="ended", total=3, sent=3, blocked=0, failed=0, unknown=0
        )
        assert counts.waiting == 0
        assert await service(app).chats(number, "sent") == [7, 8, 9]
        assert await app.rows() == []
        assert await app.sql("SELECT payload FROM delivery__broadcast") == [(None,)]
        assert await app.sql("SELECT DISTINCT fields, message, error FROM delivery__recipient") == [
            (None, None, None)
        ]
    assert said(server) == [(chat, "We are back.") for chat in (7, 8, 9)]


async def test_columns_are_the_words_of_each(url: URL, server: BotApiServer, bot: Bot) -> None:
    """A column replaces the field of its name; where it is NULL, the message's own stays."""
    hello = ("Hello, " + GUESTS.c.name + "!").label("text")
    async with kept(url, bot, **FAST) as app:
        await invite(app, (7, 'Ada "the first"'), (8, None), (9, "Ева"))
        async with app.units() as uow:
            number = await uow.broadcast(everybody("Hello!"), to=select(GUESTS.c.chat_id, hello))
        assert (await over(app, number)).sent == 3
    assert said(server) == [
        (7, 'Hello, Ada "the first"!'),
        (8, "Hello!"),
        (9, "Hello, Ева!"),
    ]


async def test_what_the_message_has_arrives(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Buttons and silence, as in any message."""
    button = InlineKeyboardButton(text="Come in", callback_data="in")
    buttons = InlineKeyboardMarkup(inline_keyboard=[[button]])
    async with kept(either_url, bot, **FAST) as app:
        await invite(app, (7, "Ada"))
        method = SendMessage(
            chat_id=EACH, text="Open!", reply_markup=buttons, disable_notification=True
        )
        async with app.units() as uow:
            number = await uow.broadcast(method, to=CHATS)
        await over(app, number)
    [call] = [call for call in server.calls if call.method == "sendMessage"]
    assert "Come in" in str(call.params["reply_markup"])
    assert str(call.params["disable_notification"]).lower() == "true"


@pytest.mark.parametrize("how", ["unit", "savepoint"])
async def test_nothing_is_sent_of_what_is_rolled_back(
    either_url: URL, server: BotApiServer, bot: Bot, how: str
) -> None:
    """With its unit, or with its savepoint alone."""
    async with kept(either_url, bot, **FAST) as app:
        await invite(app, (7, "Ada"))
        with pytest.raises(ZeroDivisionError):
            async with app.units() as uow:
                if how == "unit":
                    await uow.broadcast(everybody(), to=CHATS)
                    raise ZeroDivisionError
                async with uow.savepoint():
                    await uow.broadcast(everybody(), to=CHATS)
                    raise ZeroDivisionError
        async with app.units() as uow:
            uow.send(SendMessage(chat_id=8, text="after it"))
        await app.settled()
        assert await app.sql("SELECT count(*) FROM delivery__broadcast") == [(0,)]
        assert await app.sql("SELECT count(*) FROM delivery__recipient") == [(0,)]
    assert said(server) == [(8, "after it")]


async def test_one_for_nobody_ends(either_url: URL, bot: Bot) -> None:
    """It has no chats, and says so."""
    async with kept(either_url, bot) as app:
        await invite(app)
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        counts = await over(app, number)
        assert (counts.state, counts.total, counts.waiting) == ("ended", 0, 0)
        [event] = app.of("broadcast.ended")
        assert (event.total, event.cancelled) == (0, False)


async def test_who_does_not_get_it_is_counted_with_the_reason(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Blocked or refused: the others get it, and what was given up stands with its chat alone."""
    await server.user(8, "Bob").block()
    async with kept(url, bot, **FAST) as app:
        await invite(app, (7, "Ada"), (8, "Bob"), (404, "Nobody"))
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        counts = await over(app, number)
        assert (counts.sent, counts.blocked, counts.failed) == (1, 1, 1)
        assert await service(app).chats(number, "blocked") == [8]
        assert await service(app).chats(number, "failed") == [404]
        [(error,)] = await app.sql("SELECT error FROM delivery__recipient WHERE chat_id = 404")
        assert "chat not found" in error
        assert [event.chat for event in app.of("chat.blocked")] == [8]
        assert await app.rows() == []
        [event] = app.of("broadcast.ended")
        told = (event.broadcast, event.total, event.sent, event.blocked, event.failed)
        assert told == (number, 3, 1, 1, 1)


async def test_words_that_make_no_message_are_a_failure_of_one_chat(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The SELECT gave a number where the field wants text: the others get theirs."""
    worth = func.nullif(GUESTS.c.chat_id, 7).label("text")
    async with kept(either_url, bot, attempts=1, **FAST) as app:
        await invite(app, (7, "Ada"), (8, "Bob"))
        async with app.units() as uow:
            number = await uow.broadcast(everybody("mine"), to=select(GUESTS.c.chat_id, worth))
        counts = await over(app, number)
        assert (counts.sent, counts.failed) == (1, 1)
    assert said(server) == [(7, "mine")]


async def test_a_broadcast_is_paused_resumed_and_cancelled(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A pause ends with nothing on its way, a resumed one goes on there, none comes twice."""
    chats = await crowd(server, 60)
    async with kept(either_url, bot, bulk_rate=50) as app:
        await invite(app, *((chat, "") for chat in chats))
        broadcasts = service(app)
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await app.events.wait_for("broadcast.progress", timeout=PATIENCE)
        assert (await broadcasts.pause(number)).state == "paused"

        async def rests() -> bool:
            return await app.sql("SELECT next_at FROM delivery__broadcast") == [(None,)]

        await app.until(rests)
        paused = await broadcasts.progress(number)
        assert 0 < paused.sent == len(said(server)) < 60
        assert await broadcasts.pause(number) == paused
        assert (await broadcasts.resume(number)).state == "running"

        async def goes_on() -> bool:
            return (await broadcasts.progress(number)).sent > paused.sent

        await app.until(goes_on)
        assert (await broadcasts.cancel(number)).state == "cancelled"
        counts = await over(app, number)
        assert counts.state == "cancelled"
        assert counts.waiting == 60 - counts.sent > 0
        assert (await broadcasts.resume(number)).state == "cancelled"
        [event] = app.of("broadcast.ended")
        assert event.cancelled
    got = Counter(chat for chat, _ in said(server))
    assert sorted(got) == chats[: counts.sent]
    assert set(got.values()) == {1}


async def test_it_is_told_how_far_it_is(either_url: URL, server: BotApiServer, bot: Bot) -> None:
    """At each hundredth at most, with numbers that only grow."""
    chats = await crowd(server, 40)
    async with kept(either_url, bot, bulk_rate=100) as app:
        await invite(app, *((chat, "") for chat in chats))
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await over(app, number)
        told = [event.sent for event in app.of("broadcast.progress")]
        assert told == sorted(set(told))
        assert told
        assert {event.total for event in app.of("broadcast.progress")} == {40}


async def test_two_of_one_bot_share_its_rate(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Neither waits for the end of the other."""
    chats = await crowd(server, 30)
    async with kept(either_url, bot, bulk_rate=50) as app:
        await invite(app, *((chat, "") for chat in chats))
        async with app.units() as uow:
            numbers = [await uow.broadcast(everybody(each), to=CHATS) for each in ("one", "two")]
        for number in numbers:
            assert (await over(app, number)).sent == 30
    texts = [call.params["text"] for call in server.calls if call.method == "sendMessage"]
    assert set(texts[:30]) == {"one", "two"}


async def test_the_rate_says_when_the_next_turn_is(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """At a message in ten seconds it is in ten, and in twenty while the bot has a second one."""
    dialect = dialect_at(url)
    wait = dialect.seconds_between.format(end="next_at", begin=dialect.moment_now)
    ada = server.user(7, "Ada")
    await ada.say("/start")
    async with kept(url, bot, bulk_rate=0.1) as app:
        await invite(app, (7, "Ada"), (8, "Bob"))
        for pause in (10, 20):
            async with app.units() as uow:
                await uow.broadcast(everybody(), to=CHATS)
            await ada.reply(PATIENCE)
            [*_, (left,)] = await app.sql(f"SELECT {wait} FROM delivery__broadcast ORDER BY id")
            assert pause - 9 < left <= pause


async def test_replicas_take_turns(postgres_database: URL, server: BotApiServer, bot: Bot) -> None:
    """Each chat gets it from one of them, and the end is told once."""
    chats, at = await crowd(server, 60), postgres_database
    async with kept(at, bot, bulk_rate=50) as one, kept(at, bot, bulk_rate=50) as two:
        await invite(one, *((chat, "") for chat in chats))
        for app in (one, two):
            await app.until(partial(_is_there, app))
        async with one.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await one.until(lambda: _is(one, "SELECT state FROM delivery__broadcast", 3))
        assert (await service(two).progress(number)).sent == 60
        assert sum(len(app.of("message.sent")) for app in (one, two)) == 60
        await one.until(lambda: _told(one, two))
    assert said(server) == [(chat, "We are back.") for chat in chats]


async def _is_there(app: Kept) -> bool:
    return bool(app.of("member.joined"))


async def _told(*apps: Kept) -> bool:
    return sum(len(app.of("broadcast.ended")) for app in apps) == 1


async def test_another_process_goes_on_after_a_stop(
    postgres_database: URL, server: BotApiServer, bot: Bot, patient: dict[str, float]
) -> None:
    """Where the one that has stopped was; nothing comes twice."""
    chats, at = await crowd(server, 60), postgres_database
    async with kept(at, bot, bulk_rate=50, app=patient) as one:
        await invite(one, *((chat, "") for chat in chats))
        async with one.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await one.events.wait_for("broadcast.progress", timeout=PATIENCE)
    assert 0 < len(said(server)) < 60
    async with kept(at, bot, bulk_rate=50, app=patient) as two:
        assert (await over(two, number)).sent == 60
    assert said(server) == [(chat, "We are back.") for chat in chats]


async def test_a_bot_that_must_wait_gets_no_more(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """While Telegram says 429, messages of a broadcast wait with their chats, not in the outbox."""
    chats = await crowd(server, 100)
    async with kept(either_url, bot, bulk_rate=20) as app:
        await invite(app, *((chat, "") for chat in chats))
        server.fail_next("sendMessage", error_code=429, times=1000, retry_after=1)
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)

        async def is_full() -> bool:
            return await app.sql("SELECT count(*) FROM delivery__outbox") == [(40,)]

        await app.until(is_full)
        counts = await service(app).progress(number)
        assert (counts.sent, counts.waiting) == (0, 100)


async def test_the_process_of_a_paused_one_may_change(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A broadcast is rows: what one application began, the next one ends."""
    async with kept(either_url) as app:  # without a bot: it sends nothing
        await invite(app, (7, "Ada"), (8, "Bob"))
        async with app.units() as uow:
            number = await uow.broadcast(everybody().as_(bot), to=CHATS)
        assert (await service(app).progress(number)).waiting == 2
    assert said(server) == []
    async with kept(either_url, bot) as app:
        assert (await over(app, number)).sent == 2
    assert said(server) == [(7, "We are back."), (8, "We are back.")]


async def test_what_was_reached_long_ago_is_forgotten(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chats that have it go; those that were given up stay, and so do the counts."""
    monkeypatch.setattr("db_manager.delivery.broadcast.broadcaster._SELDOM", 0)
    await server.user(8, "Bob").block()
    async with kept(url, bot, keep_sent=0, **FAST) as app:
        await invite(app, (7, "Ada"), (8, "Bob"))
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await over(app, number)

        async def is_forgotten() -> bool:
            return await app.sql("SELECT chat_id FROM delivery__recipient") == [(8,)]

        await app.until(is_forgotten)
        counts = await service(app).progress(number)
        assert (counts.total, counts.sent, counts.blocked) == (2, 1, 1)


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no call": (lambda: "Hello", CHATS, TypeError, "takes a call that is not awaited"),
    "one chat": (
        lambda: SendMessage(chat_id=7, text=""),
        CHATS,
        ValueError,
        r"write SendMessage\(chat_id=EACH, ...\)",
    ),
    "no chat": (GetMe, CHATS, ValueError, r"write GetMe\(chat_id=EACH"),
    "no SELECT": (everybody, [7, 8], TypeError, "and not list"),
    "texts": (everybody, select(GUESTS.c.name), TypeError, "name, has texts, not ids of chats"),
    "no field": (
        everybody,
        select(GUESTS.c.chat_id, GUESTS.c.name.label("txt")),
        ValueError,
        r"'txt' of the SELECT is no field of sendMessage \(did you mean 'text'\?\)",
    ),
    "the chat again": (
        everybody,
        select(GUESTS.c.chat_id.label("of"), GUESTS.c.chat_id),
        ValueError,
        "'chat_id' of the SELECT is no field of sendMessage",
    ),
    "a file": (
        lambda: SendPhoto(chat_id=EACH, photo=BufferedInputFile(b"x", "x.png")),
        CHATS,
        NotStorableError,
        "photo goes to many chats: send it to one first, and broadcast the file_id",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_a_broadcast_is_refused_by_name(
    sqlite_database: URL, bot: Bot, what: str
) -> None:
    """Before anything is written; the unit goes on."""
    method, to, error, words = REFUSED[what]
    async with kept(sqlite_database, bot) as app:
        await invite(app)
        async with app.units() as uow:
            with pytest.raises(error, match=words):
                await uow.broadcast(method(), to=to)
        assert await app.sql("SELECT count(*) FROM delivery__broadcast") == [(0,)]


async def test_a_unit_that_reads_broadcasts_nothing(sqlite_database: URL, bot: Bot) -> None:
    """It is refused, as `send` is; and so it is without the plugin."""
    async with kept(sqlite_database, bot) as app, app.units(read_only=True) as uow:
        with pytest.raises(UnitOfWorkStateError, match="open it without read_only"):
            await uow.broadcast(everybody(), to=CHATS)
    async with kept(sqlite_database, outbox=False) as app, app.units() as uow:
        with pytest.raises(DeliveryOffError):
            await uow.broadcast(everybody(), to=CHATS)


async def test_one_that_is_not_there_is_said(sqlite_database: URL, bot: Bot) -> None:
    """Whatever is asked of it."""
    async with kept(sqlite_database, bot) as app:
        broadcasts = service(app)
        for ask in (broadcasts.progress, broadcasts.pause, broadcasts.resume, broadcasts.cancel):
            with pytest.raises(LookupError, match="there is no broadcast 7"):
                await ask(7)


async def test_what_must_not_come_twice_may_be_unknown(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """With once=True a lost answer is counted as that, and the message is not sent again."""
    async with kept(either_url, bot, **FAST) as app:
        await invite(app, (7, "Ada"))
        server.lose_next("sendMessage")
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS, once=True)
        counts = await over(app, number)
        assert (counts.sent, counts.unknown, counts.waiting) == (0, 1, 0)
        assert await service(app).chats(number, "unknown") == [7]
    assert said(server) == [(7, "We are back.")]


async def test_a_message_that_is_dropped_by_hand_has_failed(
    either_url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The broadcast does not wait for it for ever."""
    async with kept(either_url, bot, **FAST) as app:
        await invite(app, (7, "Ada"), (8, "Bob"))
        server.fail_next("sendMessage", error_code=429, retry_after=30)
        async with app.units() as uow:
            number = await uow.broadcast(everybody(), to=CHATS)
        await app.events.wait_for("message.sent", timeout=PATIENCE)
        waiting = "delivery__outbox WHERE state = 0"
        await app.until(lambda: _is(app, f"SELECT count(*) FROM {waiting}", 1))
        await app.sql(f"DELETE FROM {waiting}")
        counts = await over(app, number)
        assert (counts.sent, counts.failed) == (1, 1)
        [(error,)] = await app.sql("SELECT error FROM delivery__recipient WHERE state = 4")
        assert error == "its message was dropped by hand"


async def _is(app: Kept, sql: str, value: object) -> bool:
    return await app.sql(sql) == [(value,)]


async def test_a_message_is_not_forgotten_before_it_is_counted(either_url: URL, bot: Bot) -> None:
    """However short `keep_sent` is: what it became would be lost with its row."""
    async with kept(either_url) as app:  # nobody counts
        await invite(app, (7, "Ada"))
        async with app.units() as uow:
            await uow.broadcast(everybody().as_(bot), to=CHATS)
            sending = uow.send(SendMessage(chat_id=7, text="sent").as_(bot))
        engine = app.app.services["db_manager:engine"]
        claims = Claims(engine, has_members=False)
        await claims.end(1, [ENDED | {"id": sending.id}], ())
        on_its_way = "UPDATE delivery__recipient SET state = {}, message = {}"
        await app.sql(on_its_way.format(1, sending.id))
        await claims.forget(0, 500, -1)
        assert len(await app.rows()) == 1
        await app.sql(on_its_way.format(2, sending.id))
        await claims.forget(0, 500, -1)
        assert await app.rows() == []
