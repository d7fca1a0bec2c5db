"""What a kept reply costs: through the outbox, through inbox and outbox, beside a direct one."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from aiogram import Bot
from sqlalchemy.engine import URL, make_url
from support.postgres import Databases

from benchmarks import answering, contenders
from benchmarks.answering import BOTH, DIRECT, LOCKS, OUTBOX, RIVAL, Reply, in_chats
from benchmarks.clients import telegrams
from benchmarks.goal import fact
from benchmarks.report import Scale, Section
from benchmarks.rounds import Clock, Sample, interleave, median, ratio
from benchmarks.statements import prepare
from benchmarks.units import compare

NAME = "replies"

#: Seconds that a Telegram takes for an answer, by its name.
LATENCIES: Final = {"answers at once": 0.0, "takes 50 ms": 0.05}
#: Chats in which people write at the same time, each the next message when it has its answer.
MODES: Final = {"1 chat": 1, "20 chats": 20}
_SYSTEMS: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_BOTS: Final = {
    "postgresql": {
        DIRECT: answering.direct,
        OUTBOX: answering.outbox,
        BOTH: answering.both,
        RIVAL: answering.rival,
        LOCKS: answering.locks,
    },
    "sqlite": {DIRECT: answering.direct, OUTBOX: answering.outbox, BOTH: answering.both},
}
_CLOCKS: Final[tuple[Clock, ...]] = ("wall", "cpu")
_TEXT: Final = (
    "From an update to the answer that has arrived: a handler writes one row in a unit and answers "
    "with one message. The client is aiogram's own, Telegram is a local Bot API server in a "
    "process of its own, so that CPU is that of the bot alone, with its marks and looks. Updates "
    "come parsed to `feed_update`; with the inbox as an answer to `getUpdates`, which is stored "
    "first. A person writes again as soon as the answer is there, before it is marked: the hardest "
    "case for a chat. "
)
_RIVALS: Final = (
    "faststream-outbox has rows of the same unit, as many workers as our window has places, its "
    "own engine and its other defaults; it keeps no order of a chat, and knows nothing of "
    "Telegram. procrastinate is beside inbox and outbox: an update is a job, and so is a message, "
    "each with the lock of its chat. It is on psycopg, the only driver that it knows, and looks "
    "for jobs each 20 ms: with its own 5 s, whoever writes before a job has ended waits as long."
)


async def measure(scale: Scale) -> Section:
    """Measure one setting: `postgresql` or `sqlite`."""
    setting = scale.setting or "sqlite"
    tables = []
    facts: dict[str, float] = {}
    for name, latency in LATENCIES.items():
        async with AsyncExitStack() as stack:
            bots = await stack.enter_async_context(telegrams(*[latency] * len(_BOTS[setting])))
            replies = await _who(stack, setting, scale, bots)
            results = {
                mode: await _mode(replies, chats, scale, latency) for mode, chats in MODES.items()
            }
        tables.append(compare(f"Telegram {name}", results, DIRECT))
        facts |= _facts(f"{setting}, {name}", results)
    about = f"{_RIVALS} {scale.note}" if setting == "postgresql" else "Each bot has its own file."
    title = f"Replies that are kept ({_SYSTEMS[setting]})"
    return Section(title, _TEXT + about, tables, facts=facts)


async def _who(
    stack: AsyncExitStack, setting: str, scale: Scale, bots: list[Bot]
) -> dict[str, Reply]:
    """Return who takes part, each with a bot of its own."""
    urls = await stack.enter_async_context(databases(setting, scale, len(bots)))
    return {
        name: (await make(stack, url, bot)).reply
        for (name, make), url, bot in zip(_BOTS[setting].items(), urls, bots, strict=True)
    }


@asynccontextmanager
async def databases(setting: str, scale: Scale, count: int) -> AsyncIterator[list[URL]]:
    """Yield *count* URLs with the table: of a new database on the server, or of files."""
    async with AsyncExitStack() as stack:
        if setting == "sqlite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = [folder / f"{number}.sqlite3" for number in range(count)]
            urls = [URL.create("sqlite+aiosqlite", database=str(file)) for file in files]
        else:
            server = Databases(make_url(scale.urls[0]))
            url = await server.create()
            stack.push_async_callback(server.drop, url)
            urls = [url] * count
        for url in set(urls):
            async with AsyncExitStack() as short:
                await prepare(contenders.engine(short, url))
        yield urls


async def _mode(
    replies: dict[str, Reply], chats: int, scale: Scale, latency: float
) -> dict[str, list[Sample]]:
    cases = {name: in_chats(reply, chats) for name, reply in replies.items()}
    if latency:  # nearly all of it is waiting, which is the same in every round
        each, rounds = max(1, scale.units // 25), max(1, scale.rounds // 2)
        return await interleave(cases, rounds=rounds, units=each * chats, tasks=chats)
    return await interleave(cases, rounds=scale.rounds, units=scale.units // 2, tasks=chats)


def _facts(setting: str, results: dict[str, dict[str, list[Sample]]]) -> dict[str, float]:
    facts: dict[str, float] = {}
    for mode, samples in results.items():
        for name in samples:
            if name == DIRECT:
                continue
            for clock in _CLOCKS:
                key = fact(setting, "reply", name, f"{mode} {clock}")
                facts[key] = ratio(samples[name], samples[DIRECT], clock)
            added = median(samples[name], "wall") - median(samples[DIRECT], "wall")
            facts[fact(setting, "reply", name, f"{mode} ms")] = added / 1000
        if RIVAL in samples and setting.endswith("at once"):
            beside = ratio(samples[OUTBOX], samples[RIVAL], "cpu")
            facts[f"postgresql | outbox/{RIVAL} | {mode} cpu"] = beside
    return facts
