"""A bot that is killed again and again does everything once and in order, and says it."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.kept import Kept, kept
from support.lives import Program, lives

from lifecycle.testing import BotApiServer

CHATS = (7, 8, 9)
#: Messages that were sent and not marked, at most, when it dies.
WINDOW = 20
ROUNDS = 8
#: Steps that each life of a round can take: it starts, and the new update of each chat is noted,
#: done and answered.
STEPS = 1 + 3 * len(CHATS)
#: Updates that the next death parks, of those that have not earned it.
_LAST_CHANCE = """
    SELECT count(*) FROM delivery__inbox
    WHERE deaths >= 3 AND done_at IS NULL AND parked_at IS NULL AND payload NOT LIKE '%deadly%'
"""


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
    return over >= updates and await app.is_settled()


async def live(program: Program, app: Kept, steps: int) -> None:
    """Kill the program after so many steps, or after its end: as chance has it, amid the next one.

    Not while an innocent update has its last chance: that it is parked then would be right.
    """
    while steps > 0 or await app.sql(_LAST_CHANCE) != [(0,)]:
        if await program.read() == "dead":
            return
        steps -= 1
    await program.kill()


async def live_on(program: Program, app: Kept, updates: int) -> None:
    """Let the program live until all is over, or until it ends by itself."""
    ended = asyncio.create_task(program.said())
    while not ended.done() and not await is_over(app, updates):  # noqa: ASYNC110 -- of a database
        await asyncio.sleep(0.02)
    if not ended.done():
        ended.cancel()
        await asyncio.wait({ended})
        await program.kill()


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
        number, kills = 0, 0
        for each in range(ROUNDS):
            for person in people:
                await person.say(f"{each}")
            number += len(people)
            if deadly and each == 1:
                await people[0].say("deadly")
                number += 1
            await app.bury()
            await program.begin(*arguments)
            await live(program, app, random.randint(0, STEPS))
            kills += 1
        while not await is_over(app, number):
            await app.bury()
            await program.begin(*arguments)
            await live_on(program, app, number)
            kills += 1
        expected = [f"{n}" for n in range(ROUNDS)]
        assert await effects(app) == dict.fromkeys(CHATS, expected)
        parked = await app.sql("SELECT deaths FROM delivery__inbox WHERE parked_at IS NOT NULL")
        assert parked == ([(4,)] if deadly else [])  # the innocent ones beside it are not
        for chat in CHATS:
            heard = said(server, chat)
            assert list(dict.fromkeys(heard)) == expected  # the first time in order
            assert sum((Counter(heard) - Counter(expected)).values()) <= kills * WINDOW
