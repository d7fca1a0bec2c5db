"""A local server that speaks the Telegram Bot API, so that a whole bot is tested offline.

The bot under test is the real one with its real client; only the address differs:

    async with BotApiServer() as server:
        ada = server.user(id=7, name="Ada")
        # aiogram: Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))
        await ada.say("/note milk")
        answer = await ada.reply()
        assert answer.text == "Noted: milk"

Long polling and webhooks, form, multipart and JSON bodies, acknowledgement by offset and errors in
Telegram's own words are all there. It knows no bot framework: any client can be tested.
"""

import asyncio
import re
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import ClientError, ClientSession, web

from lifecycle.testing.telegram.calls import ApiCall, Json
from lifecycle.testing.telegram.http.bodies import params_of_reply, params_of_request
from lifecycle.testing.telegram.http.refusals import DESCRIPTIONS, RefusedError
from lifecycle.testing.telegram.methods.bot_api import BotApi

_TOKEN = re.compile(r"\d+:[\w-]+")
_MAX_BODY = 50 * 2**20
_REDELIVERY = 0.2  # seconds until a refused webhook delivery is tried again


@dataclass(slots=True)
class _Fault:
    """What happens to the next calls of one method."""

    left: int
    refusal: RefusedError | None = None
    lost: Literal["request", "answer"] | None = None


class BotApiServer(BotApi):
    """A Bot API server on a local port, for one bot.

    Args:
        token: The token it accepts; the number before the colon is the bot's id.
        username: User name of the bot.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        token: The token for the client.
    """

    def __init__(
        self,
        token: str = "42:local-test",  # noqa: S107 -- opens nothing but this server
        *,
        username: str = "local_test_bot",
        port: int = 0,
    ) -> None:
        super().__init__(
            {
                "id": int(token.partition(":")[0]),
                "is_bot": True,
                "first_name": username,
                "username": username,
                "can_join_groups": True,
                "can_read_all_group_messages": False,
                "supports_inline_queries": False,
            }
        )
        self.token = token
        self._port = port
        self._runner: web.AppRunner | None = None
        self._faults: dict[str, _Fault] = {}
        self._read: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Base address for clients, `http://127.0.0.1:54321`; the same after `stop` and `start`."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen; after `stop`, Telegram is back at the same address."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/bot{token}/{method}", self._handle)
        app.router.add_get("/file/bot{token}/{path:.+}", self._download)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        app.cleanup_ctx.append(self._delivering)
        # A client that goes away ends its long poll here too.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening: Telegram is down. Chats, messages and updates stay."""
        self.end_polls(conflict=False)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def fail_next(
        self,
        method: str,
        *,
        error_code: int = 500,
        description: str | None = None,
        times: int = 1,
        **parameters: Any,
    ) -> None:
        """Answer the next calls of a method with an error, without doing anything.

        Args:
            method: `sendMessage`, in any case.
            error_code: HTTP status and error code.
            description: Text of the error; Telegram's usual one when not given.
            times: Number of calls that fail.
            **parameters: `retry_after=1` (seconds), `migrate_to_chat_id=-5`.
        """
        if description is None:
            description = DESCRIPTIONS.get(error_code, "Error")
            if "retry_after" in parameters:
                description += f": retry after {parameters['retry_after']}"
        refusal = RefusedError(error_code, description, **parameters)
        self._faults[method.lower()] = _Fault(times, refusal=refusal)

    def lose_next(
        self, method: str, what: Literal["request", "answer"] = "answer", *, times: int = 1
    ) -> None:
        """Break the connection of the next calls of a method.

        Args:
            method: `sendMessage`, in any case.
            what: `request`: nothing was done; `answer`: it was done, but the bot cannot know.
            times: Number of calls.
        """
        self._faults[method.lower()] = _Fault(times, lost=what)

    async def call(self, method: str, timeout: float = 5.0) -> ApiCall:  # noqa: ASYNC109 -- see `wait`
        """Wait for the next answered call of a method that was not returned here before.

        Args:
            method: `answerCallbackQuery`, in any case.
            timeout: Seconds to wait.

        Returns:
            The call with its answer.

        Raises:
            NoReplyError: None came; with the whole transcript.
        """
        key = method.lower()

        def unread() -> ApiCall | None:
            done = [c for c in self.calls if c.method.lower() == key and c.answer is not None]
            index = self._read.get(key, 0)
            if index == len(done):
                return None
            self._read[key] = index + 1
            return done[index]

        return await self.wait(unread, f"call of {method}", timeout)

    async def _handle(self, request: web.Request) -> web.Response:
        token = request.match_info.get("token", "")
        if not _TOKEN.fullmatch(token):
            return _respond(RefusedError(404, DESCRIPTIONS[404]).answer)
        if token != self.token:
            return _respond(RefusedError(401, DESCRIPTIONS[401]).answer)
        try:
            params = await params_of_request(request)
        except web.HTTPRequestEntityTooLarge:
            return _respond(RefusedError(413, DESCRIPTIONS[413]).answer)
        except Exception as error:  # noqa: BLE001 -- whatever a body is that cannot be read
            said = str(error) if isinstance(error, ValueError) else "can't parse the request"
            return _respond(RefusedError(400, f"Bad Request: {said}").answer)
        return await self._answer(request, params)

    async def _download(self, request: web.Request) -> web.Response:
        file = self.files.at(request.match_info["path"])
        if request.match_info["token"] != self.token or file is None:
            return _respond(RefusedError(404, DESCRIPTIONS[404]).answer)
        return web.Response(body=file.content)

    async def _answer(self, request: web.Request, params: Json) -> web.Response:
        method = request.match_info["method"]
        fault = self._take_fault(method)
        if fault.lost == "request":
            self.log("network", f"loses the {method} of the bot")
            return _hang_up(request)
        answer = await self.perform(method, params, fault.refusal)
        if fault.lost == "answer":
            self.log("network", f"loses the answer to {method}")
            return _hang_up(request)
        return _respond(answer)

    def _take_fault(self, method: str) -> _Fault:
        fault = self._faults.get(method.lower(), _Fault(0))
        fault.left -= 1
        if fault.left <= 0:
            self._faults.pop(method.lower(), None)
        return fault

    async def _delivering(self, _: web.Application) -> Any:
        """Run the delivery to webhooks while the server runs."""
        task = asyncio.create_task(self._deliver(), name="botapi webhook delivery")
        yield
        task.cancel()
        await asyncio.wait({task})

    async def _deliver(self) -> None:
        # One at a time and in order: what a webhook with max_connections=1 sees.
        async with ClientSession() as session:
            while True:
                while not (self.webhook["url"] and self.updates):
                    await self.changed.wait()
                webhook, update = self.webhook, self.updates[0]
                headers = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"]}
                try:
                    async with session.post(
                        webhook["url"], json=update, headers=headers
                    ) as response:
                        response.raise_for_status()
                        params = await params_of_reply(response)
                except (ClientError, TimeoutError) as error:
                    webhook["last_error_date"] = int(time.time())
                    webhook["last_error_message"] = str(error)
                    self.log("Telegram", f"cannot deliver update {update['update_id']}: {error}")
                    await asyncio.sleep(_REDELIVERY)
                    continue
                if update in self.updates:
                    self.updates.remove(update)
                self.notify()
                if method := params.pop("method", None):
                    await self.perform(method, params)


def _respond(answer: Json) -> web.Response:
    return web.json_response(answer, status=answer.get("error_code", 200))


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # nobody is there to read it
