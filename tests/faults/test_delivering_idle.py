"""A chat goes idle while something is written to it: O13."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiogram.methods import SendMessage
from sqlalchemy.engine import URL
from support.kept import Kept, client, kept

from lifecycle.testing import BotApiServer

Row = Callable[..., None]


async def say(app: Kept, words: str) -> None:
    """Send a message to the one chat."""
    async with app.units() as uow:
        uow.send(SendMessage(chat_id=7, text=words))


def texts(server: BotApiServer, last: int = 0) -> list[str]:
    """Return what arrived, in order; or what of it is among the *last* calls."""
    calls = server.calls[-last:]
    return [call.params["text"] for call in calls if call.method == "sendMessage"]


async def test_nothing_is_left_lying_when_a_chat_goes_idle(
    postgres_database: URL, row: Row, *, full: bool
) -> None:
    """O13: whoever writes while another one ends the last message, the next is sent, and once."""
    rounds = 10_000 if full else 40
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(BotApiServer())
        await server.user(7, "Ada").say("/start")
        apps = []
        for _ in range(2):
            bot = await stack.enter_async_context(client(server))
            app = await stack.enter_async_context(kept(postgres_database, bot, poll=0.05))
            await app.events.wait_for("member.joined")
            apps.append(app)
        for n in range(rounds):
            await say(apps[n % 2], f"{n} a")
            while f"{n} a" not in texts(server, 2):  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0)
            for _ in range(random.randrange(8)):  # into its mark, or after it
                await asyncio.sleep(0)
            await say(random.choice(apps), f"{n} b")
            await apps[0].settled()
    assert texts(server) == [f"{n} {part}" for n in range(rounds) for part in "ab"]
    row(
        "O13",
        load=f"{rounds} × a message to a chat while another replica marks its last one",
        result=f"{2 * rounds} arrived, each once and in order; none waited for an owner",
    )
