"""Telegrams in a process of their own, run by `benchmarks.clients`.

`python -m benchmarks.telegram SECONDS ...` begins a Bot API server for each number, which answers
`sendMessage` after so many seconds, says their addresses, and ends with its standard input.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from lifecycle.testing import BotApiServer
from lifecycle.testing.telegram.calls import Json

#: Numbers of the people whom each of them knows.
PEOPLE: Final = range(1000, 1500)


class SlowTelegram(BotApiServer):
    """A Bot API server that takes its time.

    Args:
        token: Of its bot.
        latency: Seconds from a `sendMessage` to its answer.
    """

    def __init__(self, token: str, latency: float) -> None:
        super().__init__(token)
        self._latency = latency
        for number in PEOPLE:
            self.user(number, f"Person {number}")

    async def _answer(self, request: web.Request, params: Json) -> web.Response:
        if self._latency and request.match_info["method"] == "sendMessage":
            await asyncio.sleep(self._latency)
        return await super()._answer(request, params)


async def main() -> None:
    """Serve until the end of standard input."""
    async with AsyncExitStack() as stack:
        said = []
        for number, latency in enumerate(sys.argv[1:], 1):
            server = SlowTelegram(f"{number}:bench", float(latency))
            await stack.enter_async_context(server)
            said.append((server.token, server.url))
        print(json.dumps(said), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
