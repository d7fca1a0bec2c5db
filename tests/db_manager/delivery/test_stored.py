"""A call of the Bot API comes back from its row as it was."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.enums import ParseMode
from aiogram.methods import (
    AnswerInlineQuery,
    BanChatMember,
    EditMessageMedia,
    SendInvoice,
    SendMediaGroup,
    SendMessage,
    SendPoll,
    TelegramMethod,
)
from aiogram.types import (
    BufferedInputFile,
    ForceReply,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InlineQueryResultArticle,
    InputMediaPhoto,
    InputPollOption,
    InputTextMessageContent,
    KeyboardButton,
    LabeledPrice,
    LinkPreviewOptions,
    MessageEntity,
    ReplyKeyboardMarkup,
    ReplyKeyboardRemove,
    ReplyParameters,
)

from db_manager.delivery.calls.stored import lane_of, loaded, stored
from db_manager.sending import NotStorableError

BOT = Bot("42:offline", default=DefaultBotProperties(parse_mode="HTML", protect_content=True))
MENU = InlineKeyboardMarkup(
    inline_keyboard=[
        [
            InlineKeyboardButton(text="Да", callback_data="\u0000"),
            InlineKeyboardButton(text="b", url="https://x"),
        ]
    ]
)
ARTICLE = InlineQueryResultArticle(
    id="1", title="t", input_message_content=InputTextMessageContent(message_text="<b>m</b>")
)
CALLS: list[TelegramMethod[Any]] = [
    SendMessage(chat_id=-1001, text="a\u0000😀 'quoted' $1 :name", reply_markup=MENU),
    SendMessage(chat_id="@channel", text="<b>", parse_mode=None),
    SendMessage(
        chat_id=7, text="*b*", parse_mode=ParseMode.MARKDOWN_V2, disable_notification=False
    ),
    SendMessage(
        chat_id=7,
        text="x",
        entities=[MessageEntity(type="bold", offset=0, length=1)],
        link_preview_options=LinkPreviewOptions(is_disabled=True),
        reply_parameters=ReplyParameters(message_id=1, chat_id="@c", quote="q"),
        reply_markup=ReplyKeyboardMarkup(keyboard=[[KeyboardButton(text="k")]]),
    ),
    SendMessage(chat_id=7, text="x", reply_markup=ReplyKeyboardRemove()),
    SendMessage(chat_id=7, text="x", reply_markup=ForceReply(selective=True)),
    SendMediaGroup(
        chat_id=7,
        media=[InputMediaPhoto(media="id1", caption="c"), InputMediaPhoto(media="https://x/1.png")],
    ),
    EditMessageMedia(chat_id=7, message_id=1, media=InputMediaPhoto(media="id", parse_mode=None)),
    SendPoll(chat_id=7, question="q", options=["a", InputPollOption(text="b")], open_period=5),
    AnswerInlineQuery(inline_query_id="1", results=[ARTICLE], cache_time=0),
    SendInvoice(
        chat_id=7,
        title="t",
        description="d",
        payload="p",
        currency="XTR",
        prices=[LabeledPrice(label="l", amount=1)],
    ),
    BanChatMember(chat_id=7, user_id=8, until_date=datetime(2030, 1, 1, tzinfo=UTC)),
]


def form(method: TelegramMethod[Any]) -> dict[str, Any]:
    """Return what aiogram sends."""
    fields = method.model_dump(warnings=False).items()
    sent = {name: BOT.session.prepare_value(value, BOT, {}) for name, value in fields}
    return {name: value for name, value in sent.items() if value}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: type(call).__name__)
def test_what_is_sent_is_what_was_given(call: TelegramMethod[Any]) -> None:
    """Texts, keyboards, media and the bot's defaults arrive as without the detour."""
    payload, files = stored(call)
    assert files == []
    again = loaded(call.__api_method__, payload, BOT)
    assert type(again) is type(call)
    assert form(again) == form(call)
    assert stored(again) == (payload, [])


def test_a_default_is_filled_in_by_who_sends() -> None:
    """What the bot says by `default` is not frozen in the row."""
    fields = json.loads(stored(SendMessage(chat_id=7, text="<b>"))[0])
    assert fields == {"chat_id": 7, "text": "<b>"}


def test_a_time_from_now_on_becomes_a_moment() -> None:
    """An hour is an hour from the call, not from when it is sent."""
    call = BanChatMember(chat_id=7, user_id=8, until_date=timedelta(hours=1))
    fields = json.loads(stored(call)[0])
    assert abs(fields["until_date"] - time.time() - 3600) < 60


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (
            SendMediaGroup(chat_id=7, media=[InputMediaPhoto(media=BufferedInputFile(b"1", "a"))]),
            r"media\[0\]\.media",
        ),
        (SendMessage(chat_id=7, text="a", extra={"deep": [b"x"]}), r"extra\['deep'\]\[0\]"),
    ],
)
def test_what_json_does_not_know_is_named(call: TelegramMethod[Any], field: str) -> None:
    """The error says where it is."""
    with pytest.raises(NotStorableError, match=field):
        stored(call)


def test_a_lane_is_a_chat() -> None:
    """Calls for one chat, or one inline message, have one lane; others have each their own."""
    first, second = (SendMessage(chat_id=7, text=text) for text in "ab")
    assert lane_of(42, first) == lane_of(42, second) == "42:7"
    assert lane_of(43, first) == "43:7"
    query = AnswerInlineQuery(inline_query_id="1", results=[])
    assert lane_of(42, query) != lane_of(42, query)
