"""Files with numbers, each with a content of its own: where they are on the web, who gets them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

#: Units of a program's life, each with one file; and the chats to which they go in turn.
UNITS: Final = 12
CHATS: Final = range(1000, 1005)


def content_of(number: int) -> bytes:
    """Return what is in a file."""
    return f"{number:04}{bytes(range(256)).hex()}".encode() * 100


@asynccontextmanager
async def on_the_web() -> AsyncIterator[str]:
    """Yield the address of all these files; that of one ends with its number."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=content_of(int(request.match_info["number"])))

    site = web.Application()
    site.router.add_get("/{number}", serve)
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
