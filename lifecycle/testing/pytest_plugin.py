"""The fixtures `event_bus`, `telegram` and `bot` for pytest; imports wait until one is used."""

from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

try:
    from pytest_asyncio import fixture as async_fixture
except ModuleNotFoundError:  # anyio's plugin runs plain ones
    async_fixture = pytest.fixture  # type: ignore[assignment]  # as many overloads, other ones

if TYPE_CHECKING:
    from aiogram import Bot
    from aiogram.client.default import DefaultBotProperties

    from lifecycle.bus import EventBus
    from lifecycle.testing.telegram.local import LocalTelegram

#: What to do about a router that an earlier test included.
_ATTACHED: Final = (
    "An earlier test has included this router. What is included in the dispatcher of "
    "`telegram.run(app, dispatcher)` itself is free again after the test; so include a router in "
    "another router once, beside its handlers, or build one dispatcher for all tests."
)


@pytest.fixture
def event_bus() -> "EventBus":
    """Return the bus of the sandbox; override it to watch the bus of an application of yours."""
    from lifecycle.bus import EventBus  # noqa: PLC0415 -- only when used

    return EventBus()


@pytest.fixture
def bot_default() -> "DefaultBotProperties | None":
    """Return None; override it with the DefaultBotProperties of your bot, as its `parse_mode`."""
    return None


@async_fixture
async def telegram(
    bot_default: "DefaultBotProperties | None",
) -> "AsyncIterator[LocalTelegram]":
    """A local Telegram: people write to the bot that `telegram.run` serves, and get replies."""
    from lifecycle.testing.telegram.local import LocalTelegram  # noqa: PLC0415 -- aiogram: only when used

    async with LocalTelegram(default=bot_default) as telegram:
        yield telegram


@pytest.fixture
def bot(telegram: "LocalTelegram") -> "Bot":
    """Return aiogram's client of the bot, connected to the local Telegram."""
    return telegram.bot


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around that of `events`: its part stands below
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> "Generator[None, pytest.TestReport, Any]":
    """Show beside any failure of a test what was said, and the cure of one that aiogram has not."""
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, RuntimeError) and str(error).startswith("Router is already attached"):
        error.add_note(_ATTACHED)
    report = yield
    if report.when == "call" and report.failed:
        used = getattr(item, "funcargs", {})
        if "telegram" in used and "The transcript:" not in report.longreprtext:
            report.sections.append(("Telegram", str(used["telegram"].transcript)))
    return report
