"""A broadcast reaches everybody while those who send it are killed: O18."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain
from typing import Final

from aiogram.methods import SendMessage
from pydantic import SecretStr
from sqlalchemy import BigInteger, Select, literal, select
from sqlalchemy.engine import URL
from support.scene import WINDOW, Scene, Size, scene

from db_manager.config import DatabaseConfig
from db_manager.delivery import EACH, BroadcastCounts, Broadcasts
from db_manager.delivery.broadcast.begin import begin
from db_manager.engine.create import create_engine
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.testing.telegram.http.refusals import DESCRIPTIONS, RefusedError

#: Who reads the news, the first of them; one of so many has blocked the bot.
FIRST_READER: Final = 1_000_000
BLOCKED_EACH: Final = 50
#: How many read them in the full form: one process of SQLite sends half as fast as three.
NUMBER: Final = {"postgresql": 100_000, "sqlite": 30_000}
#: What is said, in the words of `support.unreliable.Arrival`.
NEWS: Final = "news"

Row = Callable[..., None]


@asynccontextmanager
async def desk(url: URL) -> AsyncIterator[UnitOfWorkFactory]:
    """Yield a factory beside the replicas, for who begins broadcasts and asks for them."""
    said = SecretStr(url.render_as_string(hide_password=False))
    engine = create_engine(DatabaseConfig(url=said))
    yield UnitOfWorkFactory(engine)
    await engine.dispose()


def readers(number: int) -> Select[int]:
    """Return a SELECT of so many chats."""
    chats = select(literal(FIRST_READER, BigInteger).label("chat")).cte("chats", recursive=True)
    following = select(chats.c.chat + 1).where(chats.c.chat < FIRST_READER + number - 1)
    return select(chats.union_all(following).c.chat)


async def until_ended(units: UnitOfWorkFactory, number: int, seconds: float) -> BroadcastCounts:
    """Wait for the end of a broadcast; return what became of it."""
    broadcasts = Broadcasts(units.engine)
    async with asyncio.timeout(seconds):
        while (counts := await broadcasts.progress(number)).state != "ended":  # noqa: ASYNC110 -- of a database
            await asyncio.sleep(0.2)
    return counts


def let_some_block(played: Scene, number: int) -> set[int]:
    """Let people be there of whom some have blocked the bot; return those who have not."""
    everybody = range(FIRST_READER, FIRST_READER + number)
    for chat in everybody:
        played.telegram.user(chat, "Reader")
    gone = everybody[::BLOCKED_EACH]
    refusal = RefusedError(403, DESCRIPTIONS[403])
    played.telegram.refusals |= dict.fromkeys(gone, refusal)
    return set(everybody) - set(gone)


async def test_a_broadcast_survives_who_sends_it(
    database_url: URL, size: Size, row: Row, *, full: bool
) -> None:
    """O18: everybody gets it who has not blocked the bot, the counts say so, and replies go on."""
    number = NUMBER[database_url.get_backend_name()] if full else 300
    few = replace(size, rate=size.rate / 6)
    keys = {"bulk_rate": 1000 if full else 100}
    async with scene(database_url, few, keys=keys) as played, desk(database_url) as units:
        reached = let_some_block(played, number)
        news = SendMessage(chat_id=EACH, text=f"0 0 {NEWS}")
        async with units() as uow:
            bot = int(played.telegram.token.partition(":")[0])
            broadcast = await begin(uow, bot, news, readers(number), once=False, max_file=0)

        async def kill_some() -> None:
            for _ in range(20 if full else 3):
                await played.kill_one()

        async with asyncio.TaskGroup() as group:
            group.create_task(kill_some())
            await played.crowd.talk(few.seconds)
        counts = await until_ended(units, broadcast, 900)
        arrived = played.telegram.arrived
        got = Counter(each for each in arrived if each.unit == NEWS)
        arrived[:] = [each for each in arrived if each.unit != NEWS]
        verdict = await played.settled()
    assert verdict.wrong() == {}
    assert {each.chat for each in got} == reached
    assert (counts.total, counts.sent, counts.blocked) == (
        number,
        len(reached),
        number - len(reached),
    )
    twice = got - Counter(set(got))
    assert twice - Counter(chain.from_iterable(played.held)) == Counter()
    assert played.most_by_one_kill(twice) <= WINDOW
    assert twice.total() <= WINDOW * played.kills
    row(
        "O18",
        load=f"{database_url.get_backend_name()}: to {number:,} chats, {played.kills} x SIGKILL, "
        f"{played.summary} besides",
        result=f"{counts.sent:,} have it, {counts.blocked:,} have blocked the bot, "
        f"{twice.total()} twice; replies: 0 lost, 0 out of order",
    )
