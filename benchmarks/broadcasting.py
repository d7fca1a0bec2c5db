"""A broadcast: the call for a hundred thousand chats, and what replies feel of it meanwhile."""

import asyncio
import gc
import statistics
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Final

from aiogram.methods import SendMessage
from sqlalchemy import BigInteger, Column, MetaData, select
from sqlalchemy import Table as Rows

from benchmarks import answering
from benchmarks.answering import Answerer
from benchmarks.clients import telegrams
from benchmarks.replies import databases
from benchmarks.report import Cell, Scale, Section, Table
from benchmarks.telegram import PEOPLE
from db_manager import UnitOfWorkFactory
from db_manager.delivery import EACH, Broadcasts

NAME = "broadcasting"

#: Chats of the call.
CHATS: Final = 100_000
_CALLS: Final = 3
#: Seconds that Telegram takes for an answer.
_LATENCY: Final = 0.05
#: People who write at the same time, each again as soon as the answer is there; the broadcast goes
#: to the others.
_TALKING: Final = 20
#: Replies of each of them in a turn.
_EACH: Final = 25
_SYSTEMS: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_READERS: Final = Rows("bench_reader", MetaData(), Column("chat_id", BigInteger, primary_key=True))
_MESSAGE: Final = SendMessage(chat_id=EACH, text="We are back.")
_TEXT: Final = (
    "The call: a unit with `uow.broadcast(message, to=select(…))`, from its beginning to its "
    "commit, medians of {calls}. Replies: {talking} people write, each again as soon as the answer "
    "is there, to a bot with the outbox whose Telegram takes 50 ms; turns in which a broadcast "
    "runs at {rate} messages a second, and turns in which it is paused. It goes to other chats. "
)


async def measure(scale: Scale) -> Section:
    """Measure both databases."""
    facts: dict[str, float] = {}
    calls: list[tuple[Cell, ...]] = []
    replies: list[tuple[Cell, ...]] = []
    chats = 1_000 if scale.quick else CHATS
    rounds = 1 if scale.quick else scale.rounds
    for setting, system in _SYSTEMS.items():
        async with AsyncExitStack() as stack:
            [bot] = await stack.enter_async_context(telegrams(_LATENCY))
            [url] = await stack.enter_async_context(databases(setting, scale, 1))
            answerer = await answering.outbox(stack, url, bot)
            took = [await _call(answerer, chats) for _ in range(1 if scale.quick else _CALLS)]
            alone, beside = await _replies(answerer, rounds, 4 if scale.quick else _EACH)
        facts[f"{setting} | broadcast call s"] = statistics.median(took)
        calls.append((system, round(statistics.median(took), 2), round(max(took), 2)))
        facts[f"{setting} | broadcast p99"] = _p99(beside) / _p99(alone)
        replies += [
            (f"{system}, {name}", len(mine), _ms(statistics.median(mine)), _ms(_p99(mine)))
            for name, mine in (("paused", alone), ("running", beside))
        ]
    tables = [
        Table(f"The call for {chats:,} chats", ("", "s", "the slowest"), calls),
        Table("Replies beside a broadcast", ("", "replies", "median ms", "p99 ms"), replies),
    ]
    text = _TEXT.format(calls=_CALLS, talking=_TALKING, rate=25) + scale.note
    return Section("Broadcasts", text, tables, facts=facts)


async def _call(answerer: Answerer, count: int) -> float:
    """Return the seconds of a broadcast to *count* chats, which is cancelled at once."""
    await _readers(answerer, range(count))
    began = time.perf_counter()
    number = await _begin(answerer)
    took = time.perf_counter() - began
    await _service(answerer).cancel(number)
    return took


async def _replies(answerer: Answerer, rounds: int, each: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each reply while a broadcast is paused, and while it runs."""
    found: tuple[list[float], list[float]] = [], []
    broadcasts = _service(answerer)
    await _readers(answerer, PEOPLE[_TALKING:])
    await _turn(answerer, 2)
    gc.collect()
    gc.freeze()  # a look at all that was imported takes 0.2 s, and falls into one turn or another
    for _ in range(rounds):
        number = await _begin(answerer)
        for mine, act in zip(found, (broadcasts.pause, broadcasts.resume), strict=True):
            await act(number)
            mine.extend(await _turn(answerer, each))
        assert (await broadcasts.progress(number)).state == "running", "it was over too soon"
        await broadcasts.cancel(number)
    gc.unfreeze()
    return found


async def _turn(answerer: Answerer, count: int) -> list[float]:
    """Return the seconds of *count* replies to each of those who talk."""
    took: list[float] = []

    async def talk(chat: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await answerer.reply(chat)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*map(talk, PEOPLE[:_TALKING]))
    return took


async def _readers(answerer: Answerer, chats: Iterable[int]) -> None:
    """Let these be the chats of the next broadcast."""
    async with _units(answerer)() as uow:
        await uow.connection.run_sync(_READERS.drop, checkfirst=True)
        await uow.connection.run_sync(_READERS.create)
        await uow.connection.execute(_READERS.insert(), [{"chat_id": chat} for chat in chats])


async def _begin(answerer: Answerer) -> int:
    async with _units(answerer)() as uow:
        number: int = await uow.broadcast(_MESSAGE, to=select(_READERS.c.chat_id))
    return number


def _units(answerer: Answerer) -> UnitOfWorkFactory:
    units: UnitOfWorkFactory = answerer.app.services["db_manager:uow_factory"]
    return units


def _service(answerer: Answerer) -> Broadcasts:
    service: Broadcasts = answerer.app.services["delivery:broadcasts"]
    return service


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
