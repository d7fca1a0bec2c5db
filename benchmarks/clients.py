"""Real clients of Telegrams in a process of their own, whose work is not counted as a bot's."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer


@asynccontextmanager
async def telegrams(*latencies: float) -> AsyncIterator[list[Bot]]:
    """Yield a real client of a Telegram for each of *latencies*, in seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.telegram", *map(str, latencies)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with AsyncExitStack() as stack:
            bots = []
            for token, url in json.loads(await process.stdout.readline()):
                session = AiohttpSession(api=TelegramAPIServer.from_base(url))
                # The session's own close would wait 250 ms for TLS, which is not spoken here.
                connections = await session.create_session()
                stack.push_async_callback(connections.close)
                bots.append(Bot(token, session))
            yield bots
    finally:
        process.stdin.close()
        await process.wait()
