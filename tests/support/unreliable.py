"""A Telegram that keeps what arrives, and refuses, loses and delays what it is sent."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from aiohttp import web

from lifecycle.testing import BotApiServer
from lifecycle.testing.telegram.calls import ApiCall, Json
from lifecycle.testing.telegram.http.refusals import RefusedError

#: Number of the first person.
FIRST: Final = 1000
TOO_MANY: Final = 429
RETRY_AFTER: Final = 1
#: The arguments of such a refusal.
FLOOD: Final[dict[str, Any]] = {"error_code": TOO_MANY, "retry_after": RETRY_AFTER}


class Arrival(NamedTuple):
    """A message that has arrived in a chat; see `Clerk` in tests/faults/delivering.py."""

    chat: int
    key: int
    number: int
    unit: str


class UnreliableTelegram(BotApiServer):
    """A local Telegram with some people, whose `sendMessage` may fail.

    Args:
        people: How many.

    Attributes:
        chats: The numbers of their chats.
        arrived: What has arrived, in this order.
        trouble: How often something goes wrong, by its name: `request` and `answer` are lost, `500`
            and `429` are answered.
        troubles: How often it has gone wrong.
        latency: Seconds from a request to its answer; the message arrives at some time of these.
        refusals: What the chats of these numbers are refused with.
        asked: How often somebody asked for updates.
        conflicts: How often somebody asked for updates while another process did.
        hasty: How many messages came before the end of the wait that a 429 had asked for.
        answers: While it is not set, what has arrived is not answered.
        at_request: Called once, when the next message is on its way to Telegram, and lost there.
        at_arrival: Called once, when the next message has arrived, before the bot is told.
    """

    def __init__(self, people: int) -> None:
        super().__init__()
        self.chats = [self.user(FIRST + each, f"Person {each}").id for each in range(people)]
        self.arrived: list[Arrival] = []
        self.trouble: dict[str, float] = {}
        self.troubles: Counter[str] = Counter()
        self.latency = 0.0
        self.refusals: dict[int, RefusedError] = {}
        self.hasty = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self._waits: dict[int, float] = {}
        self.asked = self.conflicts = 0
        self._polls: list[web.Request] = []
        self.at_request: Callable[[], Awaitable[None]] | None = None
        self.at_arrival: Callable[[], Awaitable[None]] | None = None

    async def _answer(self, request: web.Request, params: Json) -> web.Response:
        if request.match_info["method"].lower() == "getupdates":
            return await self._answer_poll(request, params)
        if request.match_info["method"].lower() != "sendmessage":
            return await super()._answer(request, params)
        before = random.random() * self.latency
        await asyncio.sleep(before)
        if self.at_request is not None:
            act, self.at_request = self.at_request, None
            await act()
            self.lose_next("sendMessage", "request")
        else:
            self._go_wrong()
        self.hasty += self.clock() < self._waits.get(params["chat_id"], 0.0)
        answer = await super()._answer(request, params)
        if answer.status == TOO_MANY:
            self._waits[params["chat_id"]] = self.clock() + RETRY_AFTER
        if self.at_arrival is not None:
            act, self.at_arrival = self.at_arrival, None
            await act()
        await asyncio.sleep(self.latency - before)
        await self.answers.wait()
        return answer

    async def _answer_poll(self, request: web.Request, params: Json) -> web.Response:
        self._polls = [each for each in self._polls if _is_there(each)]
        self.conflicts += bool(self._polls)
        self.asked += 1
        self._polls.append(request)
        try:
            return await super()._answer(request, params)
        finally:
            self._polls = [each for each in self._polls if each is not request]

    def _go_wrong(self) -> None:
        """Choose what goes wrong with the call that is answered next."""
        chance = random.random()
        for what, share in self.trouble.items():
            chance -= share
            if chance < 0:
                self.troubles[what] += 1
                match what:
                    case "request" | "answer":
                        self.lose_next("sendMessage", what)
                    case "429":
                        self.fail_next("sendMessage", **FLOOD)
                    case _:
                        self.fail_next("sendMessage", error_code=int(what))
                return

    def _send_message(self, call: ApiCall) -> dict[str, Any]:
        if refusal := self.refusals.get(call.params["chat_id"]):
            raise refusal
        message = super()._send_message(call)
        key, number, unit = call.params["text"].split()
        self.arrived.append(Arrival(call.params["chat_id"], int(key), int(number), unit))
        return message


def _is_there(request: web.Request) -> bool:
    """Return True while who has asked waits for the answer."""
    return request.transport is not None and not request.transport.is_closing()
