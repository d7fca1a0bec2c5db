"""A line between a client and any server, that can fall silent."""

import asyncio
from typing import Self

from sqlalchemy.engine import URL


class Line:
    """Listens on a port of its own and forwards to a server; a context manager.

    Args:
        host: Where the server is.
        port: Its port.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        #: Connections that were opened.
        self.accepted = 0
        self._target = host, port
        self._dark = False
        self._links: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    def url(self, url: URL) -> URL:
        """Return *url* with this line in place of the server."""
        return url.set(host=self.host, port=self.port)

    def fall_silent(self, *, only_open: bool = False) -> None:
        """Let nothing pass any more; connections open, and nobody answers.

        Args:
            only_open: Leave those alone that are opened from now on.
        """
        self._dark = not only_open
        for flowing in self._links:
            flowing.clear()

    def speak(self) -> None:
        """Let everything pass again, also what was held."""
        self._dark = False
        for flowing in self._links:
            flowing.set()

    async def end(self) -> None:
        """End every connection, and return when the clients can have noticed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(10):
            await asyncio.sleep(0.001)  # the kernel tells each side in its own time

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.end()

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(*self._target)
        flowing = asyncio.Event()
        if not self._dark:
            flowing.set()
        self._links.add(flowing)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(flowing, reader, server))
                pumps.create_task(self._pump(flowing, answers, client))
        except* ConnectionError:
            pass  # one side went away without a word
        finally:
            self._links.discard(flowing)
            client.transport.abort()
            server.transport.abort()

    async def _pump(
        self, flowing: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(1 << 16):
            await flowing.wait()
            writer.write(chunk)
            await writer.drain()
        await flowing.wait()  # a black hole swallows a good-bye, too
        writer.close()
