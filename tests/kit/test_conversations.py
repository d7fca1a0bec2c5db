"""A test of a shop reads like the conversation: photos, contacts, presses, payments, edits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import pytest
from aiogram import Bot, Dispatcher, F
from aiogram.client.default import DefaultBotProperties
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramNotFound
from aiogram.filters import (
    JOIN_TRANSITION,
    LEAVE_TRANSITION,
    ChatMemberUpdatedFilter,
    Command,
)
from aiogram.methods import SendPhoto
from aiogram.types import (
    BufferedInputFile,
    CallbackQuery,
    ChatMemberUpdated,
    FSInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InlineQuery,
    InlineQueryResultArticle,
    InputMediaDocument,
    InputMediaPhoto,
    InputTextMessageContent,
    KeyboardButton,
    LabeledPrice,
    Message,
    PreCheckoutQuery,
    ReplyKeyboardMarkup,
)
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web
from aiohttp.test_utils import TestServer

from lifecycle.application import Application
from lifecycle.bot import run_polling
from lifecycle.testing import ApiCall, LocalTelegram, NoReplyError, UploadedFile

PRICES = [LabeledPrice(label="Tea", amount=450), LabeledPrice(label="Cup", amount=50)]


def inline(*rows: tuple[str, str]) -> InlineKeyboardMarkup:
    """Return inline buttons below each other: label and callback data."""
    buttons = [[InlineKeyboardButton(text=text, callback_data=data)] for text, data in rows]
    return InlineKeyboardMarkup(inline_keyboard=buttons)


def shop() -> Dispatcher:
    """Return the dispatcher of a shop."""
    dispatcher = Dispatcher()
    sell(dispatcher)
    take_files(dispatcher)
    take_the_rest(dispatcher)
    return dispatcher


def sell(dispatcher: Dispatcher) -> None:
    """Register the menu, its buttons and the payment."""

    @dispatcher.message(Command("start"))
    async def start(message: Message) -> None:
        keyboard = ReplyKeyboardMarkup(
            keyboard=[[KeyboardButton(text="My number", request_contact=True)]]
        )
        await message.answer("<b>Welcome</b>", reply_markup=keyboard)

    @dispatcher.message(Command("menu"))
    async def menu(message: Message) -> None:
        await message.answer("Menu", reply_markup=inline(("Buy", "buy:1"), ("Help", "help")))

    @dispatcher.callback_query(F.data == "buy:1")
    async def buy(query: CallbackQuery) -> None:
        assert isinstance(query.message, Message)
        await query.answer("It comes")
        await query.message.answer_invoice(
            title="Tea",
            description="A cup",
            payload="tea:1",
            provider_token="test:1",
            currency="EUR",
            prices=PRICES,
        )

    @dispatcher.callback_query(F.data == "help")
    async def show_help(query: CallbackQuery) -> None:
        await query.answer("There is none", show_alert=True)

    @dispatcher.pre_checkout_query()
    async def check(query: PreCheckoutQuery) -> None:
        if query.invoice_payload == "tea:1":
            await query.answer(ok=True)
        else:
            await query.answer(ok=False, error_message="Sold out")

    @dispatcher.message(F.successful_payment)
    async def paid(message: Message) -> None:
        payment = message.successful_payment
        assert payment is not None
        await message.answer(f"Paid {payment.total_amount} {payment.currency}")


def take_files(dispatcher: Dispatcher) -> None:
    """Register what is done with photos, documents and voices."""

    @dispatcher.message(F.photo)
    async def photo(message: Message, bot: Bot) -> None:
        assert message.photo
        content = await bot.download(message.photo[-1])
        assert content is not None
        await message.answer(f"{len(content.read())} bytes: {message.caption}")
        await message.answer_photo(message.photo[-1].file_id, caption="Yours")

    @dispatcher.message(F.document)
    async def document(message: Message, bot: Bot) -> None:
        assert message.document
        await bot.download(message.document, into := BytesIO())
        await message.answer(f"{message.document.file_name} {message.document.mime_type}")
        await message.answer_document(BufferedInputFile(into.getvalue().upper(), "loud.txt"))

    @dispatcher.message(F.voice)
    async def voice(message: Message) -> None:
        assert message.voice
        await message.answer(f"{message.voice.duration} s")


def take_the_rest(dispatcher: Dispatcher) -> None:
    """Register what is done with contacts, places, edits, dice and inline queries."""

    @dispatcher.message(F.contact)
    async def contact(message: Message) -> None:
        assert message.contact
        assert message.from_user
        own = message.contact.user_id == message.from_user.id
        await message.answer(f"{message.contact.phone_number} {own}")

    @dispatcher.message(F.location)
    async def location(message: Message) -> None:
        assert message.location
        await message.answer_location(message.location.latitude, message.location.longitude)

    @dispatcher.edited_message()
    async def edited(message: Message) -> None:
        await message.reply(f"Changed to {message.text or message.caption}")

    @dispatcher.inline_query()
    async def search(query: InlineQuery) -> None:
        content = InputTextMessageContent(message_text=query.query)
        found = InlineQueryResultArticle(id="1", title="Tea", input_message_content=content)
        await query.answer([found], cache_time=0)

    @dispatcher.message(F.dice)
    async def dice(message: Message) -> None:
        assert message.dice
        await message.answer(f"You have {message.dice.value}")


@pytest.fixture
def bot_default() -> DefaultBotProperties:
    """The bot writes HTML."""
    return DefaultBotProperties(parse_mode="HTML", protect_content=True)


@asynccontextmanager
async def polling(dispatcher: Dispatcher, bot: Bot) -> AsyncIterator[None]:
    """Let the bot poll for the duration of a block."""
    running = asyncio.create_task(run_polling(Application([]), dispatcher, bot))
    yield
    await dispatcher.stop_polling()
    await running


async def test_the_bot_has_the_properties_of_the_real_one(telegram: LocalTelegram) -> None:
    """`bot_default` gives the bot its parse_mode, without a word at each message."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    await ada.say("/start")
    answer = await ada.reply()
    assert (answer.text, answer.keyboard) == ("Welcome", ["My number"])
    assert answer.call.params["protect_content"] is True


async def test_a_purchase(telegram: LocalTelegram) -> None:
    """From the menu to the payment, with what the bot answers to each step."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    await ada.say("/menu")
    answer = await ada.press("Buy")
    assert (answer.text, answer.show_alert, answer.url) == ("It comes", False, "")
    assert (await ada.reply()).buttons == {"Buy": "buy:1", "Help": "help"}
    assert ada.unread[0].invoice == {
        "title": "Tea",
        "description": "A cup",
        "currency": "EUR",
        "start_parameter": "",
        "total_amount": 500,
    }
    payment = await ada.pay()
    assert payment.ok
    assert payment.charge_id
    await ada.reply()
    assert (await ada.reply()).text == "Paid 500 EUR"
    help_ = await ada.press("Help")  # on the message above
    assert (help_.text, help_.show_alert) == ("There is none", True)


async def test_a_payment_that_the_bot_refuses(telegram: LocalTelegram) -> None:
    """The user sees the reason, and no payment reaches the bot; a link is paid like a message."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    with pytest.raises(ValueError, match="there is no invoice for Ada to pay"):
        await ada.pay()
    link = await telegram.bot.create_invoice_link(
        title="Cake", description="A piece", payload="cake", currency="XTR", prices=PRICES[:1]
    )
    payment = await ada.pay(link)
    assert (payment.ok, payment.error, payment.charge_id) == (False, "Sold out", "")
    assert not ada.unread
    with pytest.raises(ValueError, match="is no link of createInvoiceLink"):
        await ada.pay("https://t.me/$other")


async def test_a_bot_that_does_not_answer_the_question_before_a_payment(
    telegram: LocalTelegram,
) -> None:
    """The test fails with the transcript, as a payment does at Telegram."""
    await telegram.run(Application([]), Dispatcher())
    ada = telegram.user(7, "Ada")
    await telegram.bot.send_invoice(7, "Tea", "A cup", "tea", "XTR", PRICES[:1])
    with pytest.raises(NoReplyError, match=r"no answer to the pre_checkout_query(.|\n)*pays 450"):
        await ada.pay(timeout=0.01)


async def test_photos_and_files_go_both_ways(telegram: LocalTelegram, tmp_path: Path) -> None:
    """The bot downloads what was sent, sends it again by its id, and sends files of its own."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    await ada.send_photo(b"a cat", caption="Mau")
    assert (await ada.reply()).text == "5 bytes: Mau"
    photo = await ada.reply()
    assert (photo.text, photo.file) == ("Yours", UploadedFile("photo.jpg", b"a cat"))
    (tmp_path / "list.txt").write_text("milk")
    await ada.send_document(tmp_path / "list.txt")
    assert (await ada.reply()).text == "list.txt text/plain"
    assert (await ada.reply()).file == UploadedFile("loud.txt", b"MILK")
    await ada.send_voice(duration=3)
    assert (await ada.reply()).text == "3 s"
    await ada.send_photo()
    size = int((await ada.reply()).text.partition(" ")[0])
    assert size > 100


async def test_what_the_bot_sends_has_an_id_to_send_it_again(
    telegram: LocalTelegram, bot: Bot, tmp_path: Path
) -> None:
    """Uploads, ids and links come back as the media that they are."""
    ada = telegram.user(7, "Ada")
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    sent = await bot.send_photo(7, FSInputFile(tmp_path / "cat.jpg"), caption="<i>Mau</i>")
    assert sent.photo
    assert (sent.caption, sent.photo[-1].file_size) == ("Mau", 3)
    again = await bot.send_photo(7, sent.photo[-1].file_id)
    assert again.photo
    assert again.photo[-1].file_id == sent.photo[-1].file_id
    linked = await bot.send_document(7, "https://example.com/list.pdf")
    assert linked.document
    assert [each.file and each.file.content for each in ada.unread] == [b"cat", b"cat", None]
    with pytest.raises(TelegramBadRequest, match="wrong file identifier/HTTP URL specified"):
        await bot.send_photo(7, "cat.jpg")
    with pytest.raises(TelegramBadRequest, match="wrong file_id"):
        await bot.get_file(linked.document.file_id)
    ada.unread.clear()
    album = await bot.send_media_group(
        7,
        [
            InputMediaPhoto(media=BufferedInputFile(b"one", "1.jpg"), caption="<b>Two</b>"),
            InputMediaPhoto(media=sent.photo[-1].file_id),
        ],
    )
    assert len({each.media_group_id for each in album}) == 1
    assert [each.file and each.file.content for each in ada.unread] == [b"one", b"cat"]
    assert ada.unread[0].text == "Two"
    document = InputMediaDocument(media=BufferedInputFile(b"pdf", "a.pdf"), caption="Read")
    changed = await bot.edit_message_media(document, chat_id=7, message_id=album[0].message_id)
    assert isinstance(changed, Message)
    assert changed.document
    assert (changed.document.mime_type, changed.photo) == ("application/pdf", None)
    assert (ada.unread[0].file, ada.unread[0].text) == (UploadedFile("a.pdf", b"pdf"), "Read")


async def test_every_kind_of_message_is_one_for_the_client(
    telegram: LocalTelegram, bot: Bot
) -> None:
    """What the methods answer is what aiogram's types need."""
    telegram.user(7, "Ada")
    file = BufferedInputFile(b"x", "x.bin")
    for kind in ("document", "audio", "video", "animation", "voice", "video_note", "sticker"):
        sent = await getattr(bot, f"send_{kind}")(7, file)
        assert sent.content_type == kind
        assert (await bot.get_file(getattr(sent, kind).file_id)).file_size == 1
    assert (await bot.send_contact(7, "+1", "Bo")).contact
    assert (await bot.send_venue(7, 1.5, 2.5, "Café", "Road 1")).venue
    assert (await bot.send_dice(7)).dice
    poll = (await bot.send_poll(7, "Tea?", ["Yes", "No"])).poll
    assert poll
    assert [option.text for option in poll.options] == ["Yes", "No"]
    first = await bot.send_message(7, "one", reply_markup=inline(("Buy", "b")))
    forwarded = await first.forward(7)
    assert (forwarded.text, forwarded.reply_markup) == ("one", None)
    copied = await bot.copy_message(7, 7, first.message_id)
    assert copied.message_id == forwarded.message_id + 1
    chat = await bot.get_chat(7)
    assert chat.first_name == "Ada"
    assert (await bot.get_user_profile_photos(7)).total_count == 0


async def test_a_bot_that_is_blocked_hears_of_it_and_cannot_write(telegram: LocalTelegram) -> None:
    """Its handlers of leaving and joining are called, and in between Telegram refuses with 403."""
    dispatcher, heard = Dispatcher(), list[str]()

    @dispatcher.my_chat_member(F.chat.type == "private", ChatMemberUpdatedFilter(LEAVE_TRANSITION))
    async def left(update: ChatMemberUpdated) -> None:
        heard.append(f"{update.from_user.first_name} left")

    @dispatcher.my_chat_member(ChatMemberUpdatedFilter(JOIN_TRANSITION))
    async def joined(update: ChatMemberUpdated) -> None:
        heard.append(f"{update.from_user.first_name} joined")
        await update.answer("Welcome back")

    await telegram.run(Application([]), dispatcher)
    ada = telegram.user(7, "Ada")
    await ada.block()
    with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
        await telegram.bot.send_message(7, "News!")
    await ada.unblock()
    assert heard == ["Ada left", "Ada joined"]
    assert (await ada.reply()).text == "Welcome back"
    assert "Ada: blocks the bot" in str(telegram.transcript)


async def test_contacts_places_and_corrections(telegram: LocalTelegram) -> None:
    """What people share and correct arrives as Telegram sends it."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    await ada.share_contact("+491701234567")
    assert (await ada.reply()).text == "+491701234567 True"
    await ada.share_location(48.2, 16.4)
    assert (await ada.reply()).json["location"] == {"latitude": 48.2, "longitude": 16.4}
    number = await ada.say("milk")
    await ada.say("eggs")
    await ada.edit("more eggs")
    assert (await ada.reply()).text == "Changed to more eggs"
    await ada.edit("less milk", update=number)
    assert (await ada.reply()).text == "Changed to less milk"
    await ada.send(dice={"emoji": "🎲", "value": 6})
    assert (await ada.reply()).text == "You have 6"
    with pytest.raises(ValueError, match="update 999 is no message"):
        await ada.edit("x", update=999)
    with pytest.raises(ValueError, match="Bo has sent no such message"):
        await telegram.user(8, "Bo").edit("x")


async def test_an_inline_query_is_answered(telegram: LocalTelegram) -> None:
    """What the bot offers is there when the query returns, and it answers once."""
    await telegram.run(Application([]), shop())
    answer = await telegram.user(7, "Ada").ask_inline("tea")
    assert answer.titles == ["Tea"]
    assert answer.results[0]["input_message_content"]["message_text"] == "tea"
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await telegram.bot.answer_inline_query("1", [])


async def test_a_button_is_found_by_its_label_or_its_data(
    telegram: LocalTelegram, bot: Bot
) -> None:
    """The last message that has it is meant; what cannot be pressed says why."""
    await telegram.run(Application([]), shop())
    ada = telegram.user(7, "Ada")
    await bot.send_message(7, "first", reply_markup=inline(("Help", "help")))
    await bot.send_message(
        7, "second", reply_markup=inline(("✖", "del:1"), ("✖", "del:2"), ("Help", "other"))
    )
    first, second = ada.unread
    assert (await ada.press(first, "Help")).text == "There is none"
    assert (await ada.press("help")).text == "There is none"
    unanswered = await ada.press("Help")
    assert not unanswered.is_there
    with pytest.raises(NoReplyError, match="the bot has not answered the callback_query"):
        _ = unanswered.text
    with pytest.raises(ValueError, match=r"2 buttons '✖': press one by its data, 'del:1', 'del:2'"):
        await ada.press("✖")
    await ada.press(second, "del:2")
    with pytest.raises(ValueError, match=r"no button 'Nope'; there are \{'✖': 'del:2', 'Help'"):
        await ada.press("Nope")
    link = InlineKeyboardButton(text="Site", url="https://example.com")
    await bot.send_message(7, "link", reply_markup=InlineKeyboardMarkup(inline_keyboard=[[link]]))
    with pytest.raises(ValueError, match="button 'Site' sends no callback to the bot: it has url"):
        await ada.press("Site")


async def test_a_bot_that_polls_answers_a_bit_later(telegram: LocalTelegram) -> None:
    """The answer is waited for, and so is a payment."""
    async with polling(shop(), telegram.bot):
        ada = telegram.user(7, "Ada")
        await ada.say("/menu")
        await ada.reply()
        answer = await (await ada.press("Buy")).wait()
        assert answer.text == "It comes"
        assert (await ada.reply()).invoice
        assert (await ada.pay()).ok
        assert (await ada.reply()).text == "Paid 500 EUR"


async def test_a_method_that_is_not_played_is_named(telegram: LocalTelegram, bot: Bot) -> None:
    """It is refused with the way out, and a test can answer it itself."""
    ada = telegram.user(7, "Ada")
    with pytest.raises(TelegramNotFound, match=r"telegram.answer_with\('getChatMember', …\)"):
        await bot.get_chat_member(-5, 7)

    def member(call: ApiCall) -> dict[str, object]:
        return {"status": "member", "user": ada.sender | {"id": call.params["user_id"]}}

    telegram.answer_with("getChatMember", member)
    assert (await bot.get_chat_member(-5, 7)).user.first_name == "Ada"
    telegram.answer_with("getChatMemberCount", 3)
    assert await bot.get_chat_member_count(-5) == 3
    assert await bot.refund_star_payment(7, "charge")


async def test_a_webhook_may_answer_with_a_file(telegram: LocalTelegram, bot: Bot) -> None:
    """A photo in the answer to a delivery arrives, bytes that are no text too."""
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def answer(message: Message) -> SendPhoto:
        return message.answer_photo(BufferedInputFile(b"\xff\xd8", "cat.jpg"))

    app = web.Application()
    SimpleRequestHandler(dispatcher, bot, handle_in_background=False).register(app, path="/hook")
    async with TestServer(app) as site:
        await bot.set_webhook(str(site.make_url("/hook")))
        ada = telegram.user(7, "Ada")
        await ada.say("/cat")
        assert (await ada.reply()).file == UploadedFile("cat.jpg", b"\xff\xd8")
