"""A bot that is killed again and again does everything once and in order, and says it."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.kept import Kept, kept
from support.lives import lives

from lifecycle.testing import BotApiServer

CHATS = (7, 8, 9)
#: Messages that were sent and not marked, at most, when it dies.
WINDOW = 20


async def effects(app: Kept) -> dict[int, list[str]]:
    """Return what was noted of each chat, in order."""
    found: dict[int, list[str]] = {}
    for chat, said in await app.sql("SELECT chat, said FROM effect ORDER BY number"):
        found.setdefault(chat, []).append(said)
    return found


def said(server: BotApiServer, chat: int) -> list[str]:
    """Return what a chat got."""
    calls = [call for call in server.calls if call.method == "sendMessage"]
    mine = [call for call in calls if int(call.params["chat_id"]) == chat]
    return [call.params["text"] for call in mine if call.answer and call.answer["ok"]]


async def make_table(app: Kept, url: URL) -> None:
    """Make the table of effects."""
    number = "bigserial" if url.get_backend_name() == "postgresql" else "integer"
    table = f"CREATE TABLE effect (chat bigint, said text, number {number} PRIMARY KEY)"
    await app.sql(table)


async def is_over(app: Kept, updates: int) -> bool:
    """Return whether so many updates are done or parked, and nothing is to be sent."""
    [(over,)] = await app.sql(
        "SELECT count(*) FROM delivery__inbox "
        "WHERE update_id > 0 AND (done_at IS NOT NULL OR parked_at IS NOT NULL)"
    )
    return over >= updates and all(state for (state,) in await app.rows("state"))


@pytest.mark.parametrize("deadly", [False, True])
async def test_everything_is_done_once_and_said_at_least_once(
    database_url: URL, *, deadly: bool
) -> None:
    """Whenever it dies; an update that kills it is parked, and the others of its chat go on."""
    async with (
        BotApiServer() as server,
        kept(database_url) as app,
        lives(Path(__file__).parent / "noting_bot.py") as program,
    ):
        await make_table(app, database_url)
        people = [server.user(chat, f"Person {chat}") for chat in CHATS]
        arguments = (database_url.render_as_string(hide_password=False), server.url, server.token)
        number, kills, rounds = 0, 0, 8

        async def live() -> None:
            nonlocal kills, number
            while kills < rounds or not await is_over(app, number):
                if kills < rounds:
                    for person in people:
                        await person.say(f"{kills}")
                    number += len(people)
                    if deadly and kills == 1:
                        await people[0].say("deadly")
                        number += 1
                kills += 1
                await program.begin(*arguments)
                ended = asyncio.create_task(program.said())
                await asyncio.wait({ended}, timeout=random.uniform(0.2, 1.5))
                if not ended.done():
                    ended.cancel()
                    await asyncio.gather(ended, return_exceptions=True)
                    await program.kill()

        async with asyncio.timeout(100):
            await live()
        expected = [f"{n}" for n in range(rounds)]
        assert await effects(app) == dict.fromkeys(CHATS, expected)
        parked = await app.sql("SELECT deaths FROM delivery__inbox WHERE parked_at IS NOT NULL")
        assert parked == ([(4,)] if deadly else [])  # the innocent ones beside it are not
        for chat in CHATS:
            heard = said(server, chat)
            assert list(dict.fromkeys(heard)) == expected  # the first time in order
            assert sum((Counter(heard) - Counter(expected)).values()) <= kills * WINDOW
        assert kills >= rounds
