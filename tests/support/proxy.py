"""A proxy that reads PostgreSQL's protocol and injects faults at chosen messages.

    async with PostgresProxy(server.host, server.port) as proxy:
        engine = create_async_engine(proxy.url(database))
        lost = proxy.on_client(b"COMMIT", proxy.cut)  # the server never hears of it
        ...
        assert lost.fired.is_set()

`on_client` looks at statements before they reach the server, `on_server` at answers before they
reach the client: a fault there means that the server has done its work.
"""

import asyncio
import inspect
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Self

from sqlalchemy.engine import URL

_CANCEL, _TLS, _GSS = 80877102, 80877103, 80877104  # codes where a protocol version is expected


class Link:
    """One client's connection through the proxy.

    Args:
        client: Writes to the client.
        server: Writes to the server.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.backend_pid: int | None = None
        self.ready = False  # the server has let the client in
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._writers = client, server
        self._statements: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    @property
    def is_cut(self) -> bool:
        """True when nothing passes any more."""
        return any(writer.is_closing() for writer in self._writers)

    def cut(self, *, reset: bool = True) -> None:
        """End the connection on both sides, by RST or by FIN."""
        for writer in self._writers:
            if reset:
                raw = writer.get_extra_info("socket")
                if raw.fileno() != -1:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        self.flowing.set()

    def statement(self, kind: bytes, body: bytes) -> bytes:
        """Return the text that a client's message is about; remembers prepared statements.

        Args:
            kind: Type of the message.
            body: The message without type and length.
        """
        match kind:
            case b"Q":
                return body
            case b"P":
                name, text = body.split(b"\0", 2)[:2]
                self._statements[name] = text
                return text
            case b"B":
                portal, name = body.split(b"\0", 2)[:2]
                text = self._portals[portal] = self._statements.get(name, b"")
                return text
            case b"E":
                return self._portals.get(body.split(b"\0", 1)[0], b"")
        return b""


#: Called with the link when a rule fires, and awaited when it is a coroutine function. The message
#: is forwarded afterwards, unless the link was cut or held.
Action = Callable[[Link], object]


class Rule:
    """Fires its action at the *nth* fitting message, and at the ones after it until *times*.

    Args:
        kinds: Types of messages that it looks at.
        pattern: Regular expression, searched in the text.
        action: What happens before the message is forwarded.
        nth: The first match that counts, from 1.
        times: How often it fires; None for ever.
    """

    def __init__(
        self, kinds: bytes, pattern: bytes, action: Action, *, nth: int, times: int | None
    ) -> None:
        self.fired = asyncio.Event()
        self.count = 0
        self._kinds = kinds
        self._pattern = re.compile(pattern)
        self._action = action
        self._before = nth - 1
        self._times = times

    def fits(self, kind: bytes, text: bytes) -> bool:
        """Return True when it is to fire at this message."""
        if kind not in self._kinds or self.count == self._times:
            return False
        if not self._pattern.search(text):
            return False
        if self._before:
            self._before -= 1
            return False
        return True

    async def fire(self, link: Link) -> None:
        """Run the action on *link*."""
        self.count += 1
        self.fired.set()
        result = self._action(link)
        if inspect.isawaitable(result):
            await result


class PostgresProxy:
    """Listens on a port of its own and forwards to a PostgreSQL server; a context manager.

    It answers "no" to offers of TLS, so that it can read what passes.

    Args:
        host: Where the server is.
        port: Its port.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.links: list[Link] = []
        self.accepted = 0
        self.cancel_requests = 0
        #: Bursts of a client that were answered, from the end of its login on.
        self.round_trips = 0
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._dark = False
        self._rules: dict[str, list[Rule]] = {"client": [], "server": []}
        self._tasks: list[asyncio.Task[None]] = []

    def url(self, url: URL) -> URL:
        """Return *url* with the proxy in place of the server."""
        return url.set(host=self.host, port=self.port)

    def on_client(
        self,
        pattern: bytes,
        action: Action,
        *,
        kinds: bytes = b"QE",
        nth: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Act before a statement reaches the server.

        Args:
            pattern: Regular expression in its text; asyncpg says `COMMIT;`, psycopg `COMMIT`.
            action: A method of this proxy, or any function of a link.
            kinds: Q and E are statements being run, P and B their preparation.
            nth: The first match that counts, from 1.
            times: How often the action runs; None for ever.

        Returns:
            The rule; its `fired` can be awaited.
        """
        rule = Rule(kinds, pattern, action, nth=nth, times=times)
        self._rules["client"].append(rule)
        return rule

    def on_server(
        self,
        pattern: bytes,
        action: Action,
        *,
        kinds: bytes = b"C",
        nth: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Act before an answer reaches the client.

        Args:
            pattern: Regular expression in it; the answer to COMMIT is `COMMIT`.
            action: A method of this proxy, or any function of a link.
            kinds: C is "done", E an error, Z "ready", D a row.
            nth: The first match that counts, from 1.
            times: How often the action runs; None for ever.

        Returns:
            The rule; its `fired` can be awaited.
        """
        rule = Rule(kinds, pattern, action, nth=nth, times=times)
        self._rules["server"].append(rule)
        return rule

    def forget(self) -> None:
        """Drop all rules."""
        for rules in self._rules.values():
            rules.clear()

    def cut(self, link: Link | None = None) -> None:
        """Reset this link, or all of them."""
        for each in [link] if link else self.links:
            each.cut()

    def finish(self, link: Link | None = None) -> None:
        """Close this link politely (FIN), or all of them."""
        for each in [link] if link else self.links:
            each.cut(reset=False)

    def hold(self, link: Link | None = None) -> None:
        """Let nothing more pass on this link, or on all; other clients are not touched."""
        for each in [link] if link else self.links:
            each.flowing.clear()

    def black_hole(self, _link: Link | None = None) -> None:
        """Let nothing pass on any link, old or new: connections open, and nobody answers."""
        self._dark = True
        self.hold()

    async def refuse(self, _link: Link | None = None) -> None:
        """Stop listening: new connections are refused, the open ones live on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # the socket is closed in the next round of the loop

    async def resume(self) -> None:
        """Listen again, and forward what was held."""
        self._dark = False
        for link in self.links:
            link.flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):  # an action's own fault
                raise result

    async def _accept(
        self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.append(task)
        self.accepted += 1
        try:
            server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        link = Link(client, server)
        self.links.append(link)
        if self._dark:
            link.flowing.clear()
        wire = _Wire(link, self._rules)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._from_client(wire, client_reader, client, server))
                group.create_task(self._from_server(wire, server_reader, client))
        except* ConnectionError:
            pass  # one side is gone: so is the other
        finally:
            link.cut(reset=False)
            self.links.remove(link)
