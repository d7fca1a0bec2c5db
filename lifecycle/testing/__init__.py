"""The test kit of a bot: a local Telegram, and the fixtures that need it.

With pytest they are the fixtures `telegram`, `bot` and `event_bus`
(`lifecycle.testing.pytest_plugin`). The names below are imported when they are first used: who
tests a bot of another framework never pays for aiogram.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from lifecycle.testing.telegram.answers import CallbackAnswer, InlineAnswer, Payment
    from lifecycle.testing.telegram.calls import ApiCall, BotMessage, UploadedFile
    from lifecycle.testing.telegram.local import LocalTelegram
    from lifecycle.testing.telegram.people.chats import BotApiChat
    from lifecycle.testing.telegram.people.user import BotApiUser
    from lifecycle.testing.telegram.server import BotApiServer
    from lifecycle.testing.telegram.transcript import Line, NoReplyError, Transcript
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__,
        {
            "telegram.answers": ("CallbackAnswer", "InlineAnswer", "Payment"),
            "telegram.calls": ("ApiCall", "BotMessage", "UploadedFile"),
            "telegram.local": ("LocalTelegram",),
            "telegram.people.chats": ("BotApiChat",),
            "telegram.people.user": ("BotApiUser",),
            "telegram.server": ("BotApiServer",),
            "telegram.transcript": ("Line", "NoReplyError", "Transcript"),
        },
    )

__all__ = [
    "ApiCall",
    "BotApiChat",
    "BotApiServer",
    "BotApiUser",
    "BotMessage",
    "CallbackAnswer",
    "InlineAnswer",
    "Line",
    "LocalTelegram",
    "NoReplyError",
    "Payment",
    "Transcript",
    "UploadedFile",
]
