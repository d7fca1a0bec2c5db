"""The local Bot API server, called by the real aiogram client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramConflictError,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendMessage
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    Message,
)
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from support.ports import KeptPort

from lifecycle.testing import ApiCall, BotApiServer, NoReplyError, UploadedFile


@asynccontextmanager
async def client(server: BotApiServer, token: str | None = None) -> AsyncIterator[Bot]:
    """Yield a real client; its connections close without aiogram's pause of 250 ms for TLS."""
    api = TelegramAPIServer.from_base(server.url)
    session = AiohttpSession(api=api)
    connections = await session.create_session()
    yield Bot(token or server.token, session=session)
    await connections.close()


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """Yield a running server."""
    with KeptPort() as port:  # while it is stopped, too
        async with BotApiServer(port=port.number) as server:
            yield server


@pytest.fixture
async def bot(server: BotApiServer) -> AsyncIterator[Bot]:
    """Yield a bot that talks to the server."""
    async with client(server) as bot:
        yield bot


def buttons(**labels: str) -> InlineKeyboardMarkup:
    """Return one row of inline buttons, label and callback data."""
    row = [InlineKeyboardButton(text=k, callback_data=v) for k, v in labels.items()]
    return InlineKeyboardMarkup(inline_keyboard=[row])


async def test_whole_conversation_by_long_polling(server: BotApiServer, bot: Bot) -> None:
    """A command, a reply with buttons, a press, an edit and a notice pass through real polling."""
    dispatcher = Dispatcher()

    @dispatcher.message(Command("note"))
    async def note(message: Message, command: CommandObject) -> None:
        await message.answer(f"Noted: {command.args}", reply_markup=buttons(Delete="del:1"))

    @dispatcher.callback_query(F.data == "del:1")
    async def delete(query: CallbackQuery) -> None:
        assert isinstance(query.message, Message)
        await query.message.edit_text("Deleted.")
        await query.answer("Gone")

    polling = asyncio.create_task(
        dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False)
    )
    ada = server.user(id=7, name="Ada")
    await ada.say("/note milk")
    answer = await ada.reply()
    assert answer.text == "Noted: milk"
    assert answer.buttons == {"Delete": "del:1"}

    await ada.press(answer, "del:1")
    notice = await server.call("answerCallbackQuery")
    assert notice.params["text"] == "Gone"
    assert (answer.text, answer.buttons) == ("Deleted.", {})

    assert [f"{line.who}: {line.what}" for line in server.transcript] == [
        "Ada: /note milk",
        "bot to Ada: Noted: milk",
        "Ada: presses 'Delete'",
        "bot to Ada: <edited> Deleted.",
        "bot: <notice> Gone",
    ]
    await dispatcher.stop_polling()
    await polling
    assert server.allowed_updates == ["callback_query", "message"]


async def test_reply_names_everything_that_happened_when_none_comes(server: BotApiServer) -> None:
    """A reply that does not come is an error with the transcript and the updates nobody fetched."""
    ada = server.user(id=7, name="Ada")
    await ada.say("hello?")
    with pytest.raises(NoReplyError) as caught:
        await ada.reply(timeout=0.01)
    text = str(caught.value)
    assert text.startswith(
        "no message from the bot to Ada within 0.01 s; updates the bot did not acknowledge: 1."
    )
    assert text.endswith("Ada: hello?")


async def test_updates_stay_until_they_are_acknowledged(server: BotApiServer, bot: Bot) -> None:
    """An update comes again until a later offset acknowledges it, and a negative one skips."""
    ada = server.user(id=7, name="Ada")
    for text in "abc":
        await ada.say(text)
    assert [u.update_id for u in await bot.get_updates(limit=2)] == [1, 2]
    assert [u.update_id for u in await bot.get_updates()] == [1, 2, 3]
    assert [u.update_id for u in await bot.get_updates(offset=2)] == [2, 3]
    assert [u.update_id for u in await bot.get_updates(offset=-1)] == [3]
    assert await bot.get_updates(offset=4) == []
    assert server.updates == []


async def test_long_poll_returns_as_soon_as_somebody_writes(server: BotApiServer, bot: Bot) -> None:
    """A waiting getUpdates gets the update at once, with entities in UTF-16 units."""
    waiting = asyncio.create_task(bot.get_updates(timeout=60))
    await server.wait(lambda: server.calls or None, "call of getUpdates", 5)
    await server.user(id=7, name="Ada").say("😀 /note@some_bot milk")
    [update] = await waiting
    assert update.message is not None
    assert update.message.entities is not None
    [entity] = update.message.entities
    assert entity.type == "bot_command"
    assert entity.extract_from(update.message.text or "") == "/note@some_bot"


async def test_second_poller_ends_the_first(server: BotApiServer, bot: Bot) -> None:
    """Two instances of one bot are told of the conflict, as Telegram does."""
    first = asyncio.create_task(bot.get_updates(timeout=60))
    await server.wait(lambda: server.calls or None, "call of getUpdates", 5)
    assert await bot.get_updates(timeout=0) == []
    with pytest.raises(TelegramConflictError, match="terminated by other getUpdates"):
        await first


async def test_update_types_the_bot_did_not_ask_for_are_dropped(
    server: BotApiServer, bot: Bot
) -> None:
    """What allowed_updates leaves out never arrives, and the transcript says why."""
    await bot.get_updates(allowed_updates=["callback_query"])
    await server.user(id=7, name="Ada").say("hello")
    assert server.updates == []
    assert server.transcript[-1].what == (
        "drops the message: the bot asked only for callback_query"
    )


async def test_groups_have_their_own_type_and_replies(server: BotApiServer, bot: Bot) -> None:
    """What is said in a group carries the group as its chat, and answers are read there."""
    ada, team = server.user(id=7, name="Ada"), server.group(id=-5, title="Team")
    await ada.say("hello", chat=team)
    [update] = await bot.get_updates()
    assert update.message is not None
    assert (update.message.chat.type, update.message.chat.title) == ("supergroup", "Team")
    await bot.send_message(-5, "hello all")
    assert (await team.reply()).text == "hello all"
    assert not ada.unread


async def test_any_update_type_can_be_pushed(server: BotApiServer, bot: Bot) -> None:
    """An update that has no method of its own is pushed as JSON."""
    ada = server.user(id=7, name="Ada")
    server.push(inline_query={"id": "1", "from": ada.sender, "query": "mi", "offset": ""})
    [update] = await bot.get_updates()
    assert update.event_type == "inline_query"


async def test_pressing_a_button_that_is_not_there_is_an_error_of_the_test(
    server: BotApiServer, bot: Bot
) -> None:
    """A button that the message does not have cannot be pressed; the error lists what it has."""
    ada = server.user(id=7, name="Ada")
    await bot.send_message(7, "menu", reply_markup=buttons(Yes="y", No="n"))
    with pytest.raises(ValueError, match=r"no button 'x'; there are \{'Yes': 'y', 'No'"):
        await ada.press(await ada.reply(), "x")


@pytest.mark.parametrize(
    ("token", "error"),
    [("42:wrong", TelegramUnauthorizedError), ("42:mal!formed", TelegramNotFound)],
)
async def test_wrong_token_is_refused(
    server: BotApiServer, token: str, error: type[Exception]
) -> None:
    """A wrong token is unauthorized, and a malformed one is not found, as at Telegram."""
    async with client(server, token) as stranger:
        with pytest.raises(error):
            await stranger.get_me()
    assert server.calls == []


async def test_errors_are_in_the_words_of_telegram(server: BotApiServer, bot: Bot) -> None:
    """Empty, too long, unknown, unchanged and blocked are refused with Telegram's own texts."""
    ada = server.user(id=7, name="Ada")
    sent = await bot.send_message(7, "one")
    refused: dict[str, Awaitable[object]] = {
        "message text is empty": bot.send_message(7, " "),
        "message is too long": bot.send_message(7, "x" * 4097),
        "chat not found": bot.send_message(8, "who?"),
        "message to edit not found": bot.edit_message_text("x", chat_id=7, message_id=99),
        "message is not modified": sent.edit_text("one"),
        "message to delete not found": bot.delete_message(7, 99),
        "query is too old": bot.answer_callback_query("99"),
    }
    for text, request in refused.items():
        with pytest.raises(TelegramBadRequest, match=text):
            await request
    ada.blocked = True
    with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
        await bot.send_message(7, "two")
    async with ClientSession() as session:
        url = f"{server.url}/bot{server.token}/makeCoffee"
        async with session.post(url) as response:
            said = await response.json()
    assert (response.status, said["error_code"]) == (404, 404)
    assert said["description"] == (
        "Not Found: the local Bot API server does not play 'makeCoffee'; give it an answer in the "
        "test: telegram.answer_with('makeCoffee', …)"
    )


async def test_a_deleted_message_is_gone(server: BotApiServer, bot: Bot) -> None:
    """A message can be deleted once."""
    server.user(id=7, name="Ada")
    sent = await bot.send_message(7, "one")
    assert await sent.delete()
    with pytest.raises(TelegramBadRequest):
        await sent.delete()


async def test_files_arrive_with_name_and_content(server: BotApiServer, bot: Bot) -> None:
    """A multipart upload, alone or in an album, is recorded as the file it is."""
    ada = server.user(id=7, name="Ada")
    file = BufferedInputFile(b"milk", filename="notes.txt")
    await bot.send_document(7, file, caption="42")
    message = await ada.reply()
    assert message.text == "42"
    assert message.call.params["document"] == UploadedFile("notes.txt", b"milk")
    album = await bot.send_media_group(7, [InputMediaPhoto(media="a"), InputMediaPhoto(media="b")])
    assert len(album) == len(ada.unread) == 2


async def test_json_and_query_arguments_mean_the_same_as_a_form(
    server: BotApiServer, bot: Bot
) -> None:
    """Form, JSON body and query string are decoded to the same arguments."""
    server.user(id=7, name="Ada")
    await bot.send_message(7, "42", reply_markup=buttons(Yes="1"))
    form = server.calls[-1].params
    url = f"{server.url}/bot{server.token}/sendMessage"
    async with ClientSession() as session:
        async with session.post(url, json=form) as response:
            assert (await response.json())["ok"]
        async with session.get(url, params={"chat_id": "7", "text": "42"}) as response:
            assert (await response.json())["result"]["text"] == "42"
        async with session.post(url, json=[1]) as response:
            assert (await response.json())["description"] == "Bad Request: object expected"
    assert server.calls[-2].params == form
    assert server.calls[-1].params == {"chat_id": 7, "text": "42"}


async def test_commands_and_unknown_setters(server: BotApiServer, bot: Bot) -> None:
    """Commands are kept per language, and a setter without a meaning here just says true."""
    commands = [BotCommand(command="note", description="Note something")]
    assert await bot.set_my_commands(commands)
    assert [c.command for c in await bot.get_my_commands()] == ["note"]
    assert await bot.get_my_commands(language_code="de") == []
    assert await bot.delete_my_commands()
    assert await bot.get_my_commands() == []
    assert await bot.set_my_description("notes")
    assert await bot.send_chat_action(7, "typing")
    assert server.calls[-1].params == {"chat_id": 7, "action": "typing"}
    assert (await bot.me()).username == "local_test_bot"


async def test_faults_come_once_and_carry_their_parameters(server: BotApiServer, bot: Bot) -> None:
    """An injected error is answered as often as asked for, then the call works."""
    ada = server.user(id=7, name="Ada")
    server.fail_next("sendMessage", error_code=429, retry_after=3)
    with pytest.raises(TelegramRetryAfter) as flood:
        await bot.send_message(7, "one")
    assert flood.value.retry_after == 3
    server.fail_next("sendMessage", error_code=400, migrate_to_chat_id=-9)
    with pytest.raises(TelegramMigrateToChat):
        await bot.send_message(7, "one")
    server.fail_next("SENDMESSAGE", times=2)
    for _ in range(2):
        with pytest.raises(TelegramServerError):
            await bot.send_message(7, "one")
    assert not ada.unread
    await bot.send_message(7, "one")
    assert [call.answer is not None and call.answer["ok"] for call in server.calls] == [
        *[False] * 4,
        True,
    ]


async def test_a_lost_request_and_a_lost_answer_look_alike_to_the_bot(
    server: BotApiServer, bot: Bot
) -> None:
    """The bot sees a network error both times, but only one message was sent."""
    ada = server.user(id=7, name="Ada")
    server.lose_next("sendMessage", "request")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(7, "one")
    assert not ada.unread
    server.lose_next("sendMessage", "answer")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(7, "two")
    assert (await ada.reply()).text == "two"


async def test_telegram_can_be_down_and_come_back(server: BotApiServer, bot: Bot) -> None:
    """A stopped server refuses connections; started again it has the same address and memory."""
    ada = server.user(id=7, name="Ada")
    await ada.say("hello")
    waiting = asyncio.create_task(bot.get_updates(offset=2, timeout=60))
    await server.wait(lambda: server.calls or None, "call of getUpdates", 5)
    await server.stop()
    assert await waiting == []
    with pytest.raises(TelegramNetworkError):
        await bot.get_me()
    await ada.say("anybody?")
    await server.start()
    assert [u.update_id for u in await bot.get_updates()] == [2]


async def test_webhook_gets_updates_and_may_answer_in_place(server: BotApiServer, bot: Bot) -> None:
    """Updates are posted with the secret, again after a failure; the answer may be a method."""
    dispatcher, failures = Dispatcher(), ["once"]

    @dispatcher.message()
    async def echo(message: Message) -> SendMessage:
        if failures:
            raise RuntimeError(failures.pop())
        return SendMessage(chat_id=message.chat.id, text=f"{message.text}!")

    app = web.Application()
    SimpleRequestHandler(
        dispatcher, bot, handle_in_background=False, secret_token="s3cret"
    ).register(app, path="/hook")
    async with TestServer(app) as site:
        await bot.set_webhook(str(site.make_url("/hook")), secret_token="s3cret")
        with pytest.raises(TelegramConflictError, match="while webhook is active"):
            await bot.get_updates()
        ada = server.user(id=7, name="Ada")
        await ada.say("hello")
        assert (await ada.reply()).text == "hello!"
        info = await bot.get_webhook_info()
        assert (info.pending_update_count, info.last_error_message is not None) == (0, True)
        await bot.delete_webhook(drop_pending_updates=True)
        assert (await bot.get_webhook_info()).url == ""


async def test_webhook_may_answer_in_json(server: BotApiServer, bot: Bot) -> None:
    """A webhook that is no aiogram may answer with a method in JSON, or with nothing."""
    seen: list[str] = []

    async def hook(request: web.Request) -> web.Response:
        text = (await request.json())["message"]["text"]
        seen.append(text)
        if text == "nothing":
            return web.Response()
        return web.json_response({"method": "sendMessage", "chat_id": 7, "text": f"{text}!"})

    app = web.Application()
    app.router.add_post("/hook", hook)
    async with TestServer(app) as site:
        await bot.set_webhook(str(site.make_url("/hook")))
        ada = server.user(id=7, name="Ada")
        await ada.say("nothing")
        await ada.say("hello")
        assert (await ada.reply()).text == "hello!"
    assert seen == ["nothing", "hello"]


async def test_calls_are_waited_for_one_after_the_other(server: BotApiServer, bot: Bot) -> None:
    """Waiting for a method returns each answered call once, in order."""
    server.user(id=7, name="Ada")
    waiting = asyncio.create_task(server.call("sendMessage"))
    for text in ("one", "two"):
        await bot.send_message(7, text)
    calls: list[ApiCall] = [await waiting, await server.call("sendmessage")]
    assert [call.params["text"] for call in calls] == ["one", "two"]
    with pytest.raises(NoReplyError, match="no call of sendMessage within"):
        await server.call("sendMessage", timeout=0.01)


async def test_html_is_shown_as_people_see_it(server: BotApiServer, bot: Bot) -> None:
    """Tags become entities, references become characters, in texts, captions and edits."""
    ada = server.user(id=7, name="Ada")
    sent = await bot.send_message(
        7,
        "😀 <b>milk &amp; <i>eggs</i></b> <a href='https://a.b/?x&amp;y'>here</a> &nbsp;"
        '<pre><code class="language-python">1 &lt; 2</code></pre>',
        parse_mode="HTML",
    )
    message = await ada.reply()
    assert message.text == "😀 milk & eggs here &nbsp;1 < 2"
    assert [(e.type, e.extract_from(sent.text or ""), e.url) for e in sent.entities or ()] == [
        ("bold", "milk & eggs", None),
        ("italic", "eggs", None),
        ("text_link", "here", "https://a.b/?x&y"),
        ("pre", "1 < 2", None),
    ]
    assert message.json["entities"][-1]["language"] == "python"
    await sent.edit_text("<u>plain</u>", parse_mode="HTML", reply_markup=buttons(Yes="y"))
    await sent.edit_reply_markup(reply_markup=buttons(No="n"))
    assert (message.text, message.buttons) == ("plain", {"No": "n"})
    assert message.json["entities"] == [{"type": "underline", "offset": 0, "length": 5}]
    await sent.edit_text("**plain**", parse_mode="MarkdownV2")
    assert (message.text, "entities" in message.json) == ("**plain**", False)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ü 1 < 2", "Unclosed start tag at byte offset 5"),
        ("<milk>", 'Unsupported start tag "milk" at byte offset 0'),
        ("<b>milk", 'Can\'t find end tag corresponding to start tag "b"'),
        ("milk</b>", "Unexpected end tag at byte offset 4"),
        ("<b><i>milk</b>", 'Unmatched end tag at byte offset 10, expected "</i>", found "</b>"'),
    ],
)
async def test_broken_html_is_refused(
    server: BotApiServer, bot: Bot, text: str, error: str
) -> None:
    """Text that a bot forgot to escape is refused as Telegram does, and nothing is sent."""
    ada = server.user(id=7, name="Ada")
    with pytest.raises(TelegramBadRequest) as caught:
        await bot.send_message(7, text, parse_mode="HTML")
    assert caught.value.message == f"Bad Request: can't parse entities: {error}"
    assert not ada.unread
