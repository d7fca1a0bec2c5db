"""The plugin `delivery` without one of its guards: the checks have to see that it is missing."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from db_manager import delivery
from db_manager.delivery import outbox
from db_manager.delivery.inbox.handling import Handling
from db_manager.delivery.relay import Relay
from db_manager.delivery.table.claims import SENT
from db_manager.delivery.table.members import Member


def row_claims() -> None:
    """Let each message be claimed for itself, whatever waits in its chat."""
    vars(outbox)["lane_of"] = lambda bot_id, _: f"{bot_id}:-{secrets.token_hex(8)}"


def mark_first() -> None:
    """Say that a message is sent before it is sent."""
    init = Relay.__init__

    def broken(self: Any, *arguments: Any, **others: Any) -> None:
        init(self, *arguments, **others)
        send = self._courier.send

        async def mark_and_send(letter: Any) -> Any:
            row = {"id": letter.row.id, "owner": letter.row.owner, "state": SENT, "attempts": 1}
            await self._claims.end(0, [{**row, "message_id": None, "error": None}], ())
            return await send(letter)

        self._courier.send = mark_and_send

    setattr(Relay, "__init__", broken)  # noqa: B010 -- mypy lets nobody assign to a method


def acknowledge_first() -> None:
    """Tell Telegram that an update is here before it is stored."""
    webhook = delivery.webhook
    tasks = set()

    def broken(bot: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
        receive = webhook(bot)

        async def answer_first(request: web.Request) -> web.Response:
            await request.read()

            async def later() -> None:
                await asyncio.sleep(0.1)
                await receive(request)

            tasks.add(asyncio.create_task(later()))
            return web.Response()

        return answer_first

    vars(delivery)["webhook"] = broken


def no_fence() -> None:
    """Ask neither the clock nor the row whether others have what is being done."""
    completed = Handling.completed

    def broken(self: Any, unit: Any, **_: Any) -> None:
        completed(self, unit, is_mine=True)

    setattr(Handling, "completed", broken)  # noqa: B010 -- as above
    setattr(Member, "is_sure", property(lambda self: self.me != 0))  # noqa: B010 -- as above


def judge_at_once() -> None:
    """Take for dead who was silent, although nobody could be heard."""

    async def broken(self: Any) -> bool:
        await self._execute(self._judge, lease=self._lease)
        return True

    setattr(Member, "judge", broken)  # noqa: B010 -- as above


MUTATIONS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (row_claims, mark_first, acknowledge_first, no_fence, judge_at_once)
}
