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
from collections.abc import Callable
from typing import Literal, Self

from sqlalchemy.engine import URL
from support.ports import HOST, KeptPort
from support.wire import Message, Messages, Statements

Side = Literal["client", "server"]


class Link:
    """One client's connection through the proxy.

    Args:
        client: Writes to the client.
        server: Writes to the server.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers: dict[Side, asyncio.StreamWriter] = {"client": client, "server": server}
        self.backend_pid: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.logged_in = False
        self.awaits_answer = False
        self._statements = Statements()

    @property
    def is_cut(self) -> bool:
        """True when nothing passes any more."""
        return any(writer.is_closing() for writer in self.writers.values())

    def cut(self, *, reset: bool = True) -> None:
        """End the connection on both sides, by RST or by FIN."""
        for writer in self.writers.values():
            if reset and not writer.is_closing():
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if reset:
                writer.transport.abort()
            else:
                writer.close()
        self.flowing.set()

    def read(self, side: Side, message: Message) -> bytes:
        """Return the text that rules look at; learn from the message."""
        if side == "client":
            return self._statements.text(message)
        if message.kind == b"K":
            (self.backend_pid,) = struct.unpack_from("!I", message.body)
        elif message.kind == b"Z":
            self.logged_in = True
        return message.body


#: Runs when a rule fires, and is awaited when it returns an awaitable. The message is forwarded
#: afterwards, unless the link was cut or held.
Action = Callable[[Link], object]


class Rule:
    """Fires its action at the nth fitting message, and at later ones until *times*."""

    def __init__(
        self,
        side: Side,
        kinds: bytes,
        pattern: bytes,
        action: Action,
        *,
        nth: int,
        times: int | None,
    ) -> None:
        self.fired = asyncio.Event()
        self.count = 0
        self._side = side
        self._kinds = kinds
        self._pattern = re.compile(pattern)
        self._action = action
        self._passed = 1 - nth
        self._times = times

    def is_due(self, side: Side, kind: bytes, text: bytes) -> bool:
        """Count the message when it fits; return True when the rule is to fire at it."""
        if side != self._side or kind not in self._kinds or not self._pattern.search(text):
            return False
        self._passed += 1
        return self._passed > 0 and self.count != self._times

    async def fire(self, link: Link) -> None:
        """Run the action on *link*."""
        self.count += 1
        self.fired.set()
        result = self._action(link)
        if inspect.isawaitable(result):
            await result


class PostgresProxy:
    """Listens on a port of its own and forwards to a PostgreSQL server; a context manager.

    It answers "no" to offers of TLS, so that it can read what passes. An action that raises is
    raised again at the end of the block.

    Args:
        host: Where the server is.
        port: Its port.
    """

    host = HOST

    def __init__(self, host: str, port: int) -> None:
        self._kept = KeptPort()
        self.port = self._kept.number
        self.links: list[Link] = []
        #: Connections that were opened; those that only carry a CancelRequest are counted in both.
        self.accepted = 0
        self.cancel_requests = 0
        #: Bursts of a client that were answered, from the end of its login on.
        self.round_trips = 0
        self._target = host, port
        self._listener: socket.socket | None = None
        self._dark = False
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []

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
            kinds: Q and E run a statement, P prepares one, X says good-bye.
            nth: The first match that counts, from 1.
            times: How often the action runs; None for ever.

        Returns:
            The rule; its `fired` can be awaited.
        """
        return self._add(Rule("client", kinds, pattern, action, nth=nth, times=times))

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
            pattern: Regular expression in it; the answer to a good COMMIT is `COMMIT`.
            action: A method of this proxy, or any function of a link.
            kinds: C says done, E error, Z ready, D is a row.
            nth: The first match that counts, from 1.
            times: How often the action runs; None for ever.

        Returns:
            The rule; its `fired` can be awaited.
        """
        return self._add(Rule("server", kinds, pattern, action, nth=nth, times=times))

    def _add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def forget(self) -> None:
        """Drop all rules."""
        self._rules.clear()

    def cut(self, link: Link | None = None) -> None:
        """Reset this link (RST), or all of them."""
        for each in [link] if link else self.links:
            each.cut()

    def finish(self, link: Link | None = None) -> None:
        """Close this link (FIN), or all of them."""
        for each in [link] if link else self.links:
            each.cut(reset=False)

    def hold(self, link: Link | None = None) -> None:
        """Let nothing more pass on this link, or on all; the others are not touched."""
        for each in [link] if link else self.links:
            each.flowing.clear()

    def black_hole(self, _link: Link | None = None) -> None:
        """Let nothing pass on any link, old or new: connections open, and nobody answers."""
        self._dark = True
        self.hold()

    def refuse(self, _link: Link | None = None) -> None:
        """Stop listening: new connections are refused, the open ones live on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def resume(self) -> None:
        """Listen again on the same port, and forward what was held."""
        self._dark = False
        for link in self.links:
            link.flowing.set()
        if self._listener is None:
            # A server of asyncio that is closed when it has just accepted leaves a transport that
            # nobody closes (Python 3.11).
            listener = self._listener = socket.create_server((self.host, self.port), backlog=100)
            listener.setblocking(False)  # noqa: FBT003 -- as the standard library has it
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        self._kept.close()
        self.cut()
        await asyncio.sleep(0)  # a task that has not begun could not close what it was given
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._errors:
            raise ExceptionGroup("actions of the proxy failed", self._errors)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:  # it is gone again
            return
        self.accepted += 1
        accepted.setblocking(False)  # noqa: FBT003 -- as above
        task = asyncio.create_task(self._serve(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        reader, client = await asyncio.open_connection(sock=accepted)
        try:
            server_reader, server = await asyncio.open_connection(*self._target)
        except BaseException as error:
            client.transport.abort()
            if isinstance(error, OSError):
                return
            raise
        link = Link(client, server)
        if self._listener is None:  # refused while it was being opened
            link.cut()
            return
        self.links.append(link)
        if self._dark:
            link.flowing.clear()
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, "client", reader))
                pumps.create_task(self._pump(link, "server", server_reader))
        except* ConnectionError:
            link.cut()  # one side went away without a word
        except* Exception as group:  # noqa: BLE001 -- an action may raise anything
            self._errors += group.exceptions
        finally:
            link.cut(reset=False)
            self.links.remove(link)

    async def _pump(self, link: Link, side: Side, reader: asyncio.StreamReader) -> None:
        messages = Messages(login=side == "client")
        while chunk := await reader.read(1 << 16):
            burst = bytearray()
            for message in messages.feed(chunk):
                if message.kind == b"tls":
                    link.writers["client"].write(b"N")
                    continue
                self.cancel_requests += message.kind == b"cancel"
                text = link.read(side, message)
                for rule in [r for r in self._rules if r.is_due(side, message.kind, text)]:
                    await self._forward(link, side, burst)
                    await rule.fire(link)
                if link.is_cut:
                    return
                await link.flowing.wait()
                burst += message.raw
            await self._forward(link, side, burst)
        await link.flowing.wait()  # a black hole swallows a good-bye, too
        link.cut(reset=False)

    async def _forward(self, link: Link, side: Side, burst: bytearray) -> None:
        if not burst:
            return
        await link.flowing.wait()
        if link.is_cut:
            return
        if side == "client":
            link.awaits_answer = link.logged_in
        elif link.awaits_answer:
            link.awaits_answer = False
            self.round_trips += 1
        writer = link.writers["server" if side == "client" else "client"]
        writer.write(bytes(burst))
        burst.clear()
        await writer.drain()
