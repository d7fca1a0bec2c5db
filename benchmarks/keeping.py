"""What keeping adds, counted; what is stored at once; and how fast rows of the outbox are sent."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from aiogram import Bot
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import answering, ours
from benchmarks.answering import BOTH, DIRECT, OUTBOX, Answerer, written_by
from benchmarks.clients import telegrams
from benchmarks.goal import fact
from benchmarks.replies import databases
from benchmarks.report import Cell, Scale, Section, Table
from benchmarks.rounds import Sample, interleave, median, ratio
from benchmarks.telegram import PEOPLE
from db_manager.base import Base
from db_manager.delivery.inbox.updates import Updates
from db_manager.delivery.table.claims import Claims
from db_manager.dialects.known import dialect_of
from db_manager.engine.create import create_beside

NAME = "keeping"

#: Updates of one answer of Telegram.
UPDATES: Final = 100
#: Messages that one look at the table brings, and how many bare calls are made at once.
MESSAGES: Final = 500
_FEW: Final = 100
AT_ONCE: Final = 100
#: Replies before counting, and counted.
_TURNS: Final = (10, 20)
#: Nothing happens by itself while statements are counted.
_QUIET: Final = {"poll": 60.0, "lease": 600.0}
_TOGETHER, _SINGLY = f"{UPDATES} updates at once", f"{UPDATES} single ones"
_BARE, _RELAY = f"bot.send_message, {AT_ONCE} at once", "outbox, from the table"
_TEXT: Final = (
    "Statements and transactions are counted where SQLAlchemy sends them, over all connections, in "
    "a bot that does nothing else: each number is the mean of {replies} replies, one after the "
    "other, each in a chat where nothing waits, marks included. Stored are "
    f"{UPDATES} updates of as many chats. The relay finds {MESSAGES} messages for as many chats in "
    "the table, sends and marks them; the clock begins before they are written, and its look comes "
    "within 50 ms. "
)
_SYSTEMS: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_numbers = itertools.count(1_000_000)


async def measure(scale: Scale) -> Section:
    """Count and measure on both databases."""
    facts: dict[str, float] = {}
    tables = []
    for setting, system in _SYSTEMS.items():
        counts = await _counts(setting, scale)
        tables.append(_counted(f"Of one reply, {system}", counts))
        stored = await _stores(setting, scale)
        tables.append(_compared(f"Store of {UPDATES} updates, {system}", stored, _SINGLY))
        facts[f"{setting} | store"] = ratio(stored[_TOGETHER], stored[_SINGLY], "wall")
        messages = _FEW if scale.quick else MESSAGES
        sent = await _relays(setting, scale, messages)
        tables.append(_compared(f"{messages} messages, {system}", sent, _BARE, messages))
        facts[f"{setting} | relay"] = ratio(sent[_RELAY], sent[_BARE], "wall")
        for name in (OUTBOX, BOTH):
            for what, count in counts[name].items():
                facts[fact(setting, "counted", name, what)] = count - counts[DIRECT][what]
    text = _TEXT.format(replies=_TURNS[1]) + scale.note
    return Section("What keeping adds", text, tables, facts=facts)


def _compared(
    title: str, samples: dict[str, list[Sample]], base: str, count: int = UPDATES
) -> Table:
    """Return how long one update or message takes, and how many there are in a second."""
    rows: list[tuple[Cell, ...]] = []
    for name, mine in samples.items():
        wall, cpu = median(mine, "wall") / count, median(mine, "cpu") / count
        row: list[Cell] = [name, round(1e6 / wall), wall, ratio(mine, samples[base], "wall")]
        rows.append((*row, cpu, ratio(mine, samples[base], "cpu")))
    return Table(title, ("", "each second", "wall µs each", "ratio", "CPU µs each", "ratio"), rows)


# -- counts ------------------------------------------------------------------------------------


async def _counts(setting: str, scale: Scale) -> dict[str, dict[str, float]]:
    """Return statements and transactions of one reply, by who replies."""
    async with AsyncExitStack() as stack:
        bots = await stack.enter_async_context(telegrams(0.0, 0.0, 0.0))
        urls = await stack.enter_async_context(databases(setting, scale, 3))
        return {
            DIRECT: await _count(await answering.direct(stack, urls[0], bots[0])),
            OUTBOX: await _count(await answering.outbox(stack, urls[1], bots[1], **_QUIET)),
            BOTH: await _count(await answering.both(stack, urls[2], bots[2], **_QUIET)),
        }


async def _count(who: Answerer) -> dict[str, float]:
    warm_up, replies = _TURNS
    for chat in PEOPLE[:warm_up]:
        await _settled(who, chat)
    with _counting() as counts:
        for chat in PEOPLE[warm_up : warm_up + replies]:
            await _settled(who, chat)
    return {what: count / replies for what, count in counts.items()}


async def _settled(who: Answerer, chat: int) -> None:
    """Let a person write, and wait until the answer is marked."""
    await who.reply(chat)
    await _empty(who)


async def _empty(who: Answerer) -> None:
    for name in ("delivery:outbox", "delivery:inbox"):
        if probe := who.app.probes.get(name):
            while probe()["held"]:  # type: ignore[index]  # noqa: ASYNC110 -- it is a probe
                await asyncio.sleep(0.0005)


@contextmanager
def _counting() -> Iterator[dict[str, int]]:
    """Count what all engines send."""
    counts = {"statements": 0, "transactions": 0}

    def execute(*_: object) -> None:
        counts["statements"] += 1

    def commit(_: object) -> None:
        counts["transactions"] += 1

    event.listen(Engine, "before_cursor_execute", execute)
    event.listen(Engine, "commit", commit)
    try:
        yield counts
    finally:
        event.remove(Engine, "before_cursor_execute", execute)
        event.remove(Engine, "commit", commit)


def _counted(title: str, counts: dict[str, dict[str, float]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, mine in counts.items():
        row: list[Cell] = [name]
        for what, count in mine.items():
            row += [count, round(count - counts[DIRECT][what], 2)]
        rows.append(tuple(row))
    columns = ("", "statements", "more than the user's", "transactions", "more than the user's")
    return Table(title, columns, rows)


# -- store -------------------------------------------------------------------------------------


async def _stores(setting: str, scale: Scale) -> dict[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        engine = await _engine(stack, setting, scale)
        updates = Updates(engine, has_members=setting == "postgresql")

        async def together() -> None:
            await updates.store([_stored() for _ in range(UPDATES)], 1)

        async def singly() -> None:
            for _ in range(UPDATES):
                await updates.store([_stored()], 1)

        cases = {_SINGLY: singly, _TOGETHER: together}
        return await interleave(cases, rounds=scale.rounds, units=1, tasks=1)


async def _engine(stack: AsyncExitStack, setting: str, scale: Scale) -> AsyncEngine:
    """Return an engine as the relay has it, on a database with the tables."""
    [url] = await stack.enter_async_context(databases(setting, scale, 1))
    engine = ours.open_database(stack, url).engine
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    beside = create_beside(engine, 3)
    if beside.sync_engine.pool is not engine.sync_engine.pool:
        stack.push_async_callback(beside.dispose)
    return beside


def _stored() -> dict[str, Any]:
    number = next(_numbers)
    payload = written_by(number)["message"]["text"]
    return {"bot_id": 1, "update_id": number, "lane": f"1:{number}", "payload": payload}


# -- relay -------------------------------------------------------------------------------------


async def _relays(setting: str, scale: Scale, messages: int) -> dict[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        bare, bot = await stack.enter_async_context(telegrams(0.0, 0.0))
        [url] = await stack.enter_async_context(databases(setting, scale, 1))
        who = await answering.outbox(stack, url, bot, poll=0.05)
        engine = ours.open_database(stack, url).engine
        cases = {_BARE: _calls(bare, messages), _RELAY: _relayed(who, engine, bot, messages)}
        return await interleave(cases, rounds=scale.rounds, units=1, tasks=1)


def _calls(bot: Bot, messages: int) -> Callable[[], Awaitable[object]]:
    async def send() -> None:
        chats = iter(PEOPLE[:messages])

        async def some() -> None:
            for chat in chats:
                await bot.send_message(chat, "Noted.")

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    return send


def _relayed(
    who: Answerer, engine: AsyncEngine, bot: Bot, messages: int
) -> Callable[[], Awaitable[object]]:
    claims = Claims(engine, has_members=dialect_of(engine.dialect).has_server)
    left, done = 0, asyncio.Event()

    def sent(_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    who.app.bus.subscribe("message.sent", sent)
    about = {"bot_id": bot.id, "method": "sendMessage", "once": False, "due": None}

    async def relay() -> None:
        nonlocal left
        left = messages
        done.clear()
        rows = [
            {
                **about,
                "lane": f"{bot.id}:{chat}",
                "payload": f'{{"chat_id": {chat}, "text": "Noted."}}',
            }
            for chat in PEOPLE[:messages]
        ]
        async with engine.begin() as connection:
            await claims.write(connection, rows, 0, 0, ())
        await done.wait()
        await _empty(who)

    return relay
