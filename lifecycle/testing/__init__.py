"""The test kit of a bot: a local Telegram, and the fixtures that need it.

With pytest they are the fixtures `telegram`, `bot` and `event_bus`
(`lifecycle.testing.pytest_plugin`). The names below are imported when they are first used: who
tests a bot of another framework never pays for aiogram.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifecycle.testing.telegram.calls import ApiCall, BotMessage, UploadedFile
    from lifecycle.testing.telegram.chats import BotApiChat, BotApiUser
    from lifecycle.testing.telegram.local import LocalTelegram
    from lifecycle.testing.telegram.server import BotApiServer
    from lifecycle.testing.telegram.transcript import Line, NoReplyError, Transcript

_MODULES = {
    "calls": ("ApiCall", "BotMessage", "UploadedFile"),
    "chats": ("BotApiChat", "BotApiUser"),
    "local": ("LocalTelegram",),
    "server": ("BotApiServer",),
    "transcript": ("Line", "NoReplyError", "Transcript"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ApiCall",
    "BotApiChat",
    "BotApiServer",
    "BotApiUser",
    "BotMessage",
    "Line",
    "LocalTelegram",
    "NoReplyError",
    "Transcript",
    "UploadedFile",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.telegram.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
