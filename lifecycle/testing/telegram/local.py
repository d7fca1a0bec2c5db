"""A local Telegram for tests: what people write is handled when `say` returns, or raises.

The dispatcher is started and stopped as behind a webhook, each update is handled in a task of its
own, and the bot answers over HTTP. Nothing polls, so there is nothing to wait for.
"""

import asyncio
from types import TracebackType
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import TelegramMethod
from aiogram.types import Update

from lifecycle.application import Application
from lifecycle.bot import attach
from lifecycle.bot.traffic import find_traffic
from lifecycle.testing.telegram.server import BotApiServer


class LocalTelegram(BotApiServer):
    """A Bot API server that feeds the updates to a dispatcher by itself.

        async with LocalTelegram() as telegram:
            await telegram.run(app)
            ada = telegram.user(7, "Ada")
            await ada.say("/start")
            assert (await ada.reply()).text == "Visit 1."

    Args:
        default: The properties of the bot, as `parse_mode`.

    Attributes:
        bot: aiogram's client, connected to this server.
        dispatcher: The dispatcher that gets the updates, once something runs.
    """

    def __init__(self, *, default: DefaultBotProperties | None = None) -> None:
        super().__init__()
        self._default = default
        self.dispatcher: Dispatcher | None = None
        self._bot: Bot | None = None
        self._session: AiohttpSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def bot(self) -> Bot:
        """The bot's client, connected to this server."""
        if self._bot is None:
            self._session = AiohttpSession(api=TelegramAPIServer.from_base(self.url))
            self._bot = Bot(self.token, self._session, default=self._default)
        return self._bot

    async def start(self) -> None:
        """Listen; after `stop`, Telegram is back at the same address."""
        self._loop = asyncio.get_running_loop()
        await super().start()

    async def run(self, app: Application, dispatcher: Dispatcher | None = None) -> Dispatcher:
        """Start an application and serve its bot, until the end of the test.

        Args:
            app: The application.
            dispatcher: The bot's dispatcher; a new one when not given, which is enough when
                plugins include the handlers. One that several tests share keeps its FSM storage.

        Returns:
            The dispatcher.

        Raises:
            RuntimeError: A bot runs already, or this was started in another event loop.
            PluginFailedError: A plugin did not start.
        """
        if self.dispatcher is not None:
            raise RuntimeError("a bot runs already; a local Telegram serves one at a time")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the local Telegram was started in another event loop; with pytest-asyncio give "
                "asyncio_default_fixture_loop_scope and asyncio_default_test_loop_scope one value"
            )
        dispatcher = dispatcher or Dispatcher()
        attach(app, dispatcher)
        try:
            await dispatcher.emit_startup(**self._workflow(dispatcher))
        except BaseException:
            _detach(dispatcher)
            raise
        self.dispatcher = dispatcher
        return dispatcher

    async def end(self) -> None:
        """Let the bot shut down; nothing happens when none runs.

        Raises:
            ExceptionGroup: Plugins or shutdown hooks did not end well.
        """
        dispatcher, self.dispatcher = self.dispatcher, None
        if dispatcher is None:
            return
        try:
            await dispatcher.emit_shutdown(**self._workflow(dispatcher))
        finally:
            _detach(dispatcher)

    async def deliver(self, **payload: Any) -> int:
        """Handle an update to its end, in a task of its own.

        Args:
            **payload: One field of the Bot API's `Update` object.

        Returns:
            Number of the update.

        Raises:
            Exception: What a handler raised and no error handler handled.
        """
        number = self.push(**payload)
        if self.dispatcher is not None:
            update = self.updates.pop()
            await asyncio.create_task(self._feed(self.dispatcher, update))
        return number

    async def _feed(self, dispatcher: Dispatcher, update: dict[str, Any]) -> None:
        parsed = Update.model_validate(update, context={"bot": self.bot})
        response = await dispatcher.feed_update(self.bot, parsed, bots=(self.bot,))
        if isinstance(response, TelegramMethod):  # a handler may return its answer
            await self.bot(response)

    def _workflow(self, dispatcher: Dispatcher) -> dict[str, Any]:
        return {
            "dispatcher": dispatcher,
            "bots": (self.bot,),
            **dispatcher.workflow_data,
            "bot": self.bot,
        }

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.end()
        finally:
            if self._session is not None:
                # Its own close would wait 250 ms for TLS, which is not spoken here.
                client = await self._session.create_session()
                await client.close()
            await super().__aexit__(kind, error, traceback)


def _detach(dispatcher: Dispatcher) -> None:
    """Make the dispatcher free for the application of the next test."""
    traffic = find_traffic(dispatcher)
    if traffic is not None:
        traffic.uninstall()
