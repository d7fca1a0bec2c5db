"""Limits the connections of the HTTP endpoint: their number, and how long each may take."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

#: Connections at once; one more replaces the oldest that has not sent its request yet.
MOST: Final = 100
#: Seconds from the connection to the end of the request.
REQUEST_TIME: Final = 5.0
#: Seconds from the request to the end of the answer.
ANSWER_TIME: Final = 30.0
#: Seconds until the next attempt when the process is out of file descriptors.
_NO_DESCRIPTOR: Final = 0.1

_log = logging.getLogger("observability")


class Connections:
    """Accepts connections; a client that sends half a request, or none, blocks no other.

    Args:
        listening: The listening socket.
        protocol: Makes the protocol that serves a connection.
    """

    def __init__(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listening = listening
        self._protocol = protocol
        # Oldest first, each with the timer that ends it.
        self._waiting: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._answered: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._answered)

    async def accept(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)  # noqa: FBT003 -- socket takes positions only
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                _log.debug("no connection accepted: %s", error)
                self._end_oldest()
                await asyncio.sleep(_NO_DESCRIPTOR)
                continue
            if not self._has_room():
                accepted.close()
                continue
            transport, _ = await loop.connect_accepted_socket(self._protocol, accepted)
            self._waiting[transport] = loop.call_later(REQUEST_TIME, self._end, transport)

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a request is complete: from now on the limit for its answer holds."""
        timer = None if transport is None else self._waiting.pop(transport, None)
        if transport is not None and timer is not None:
            timer.cancel()
            loop = asyncio.get_running_loop()
            self._answered[transport] = loop.call_later(ANSWER_TIME, self._end, transport)

    def close(self) -> None:
        """End every connection."""
        for transport in [*self._waiting, *self._answered]:
            self._end(transport)

    def _has_room(self) -> bool:
        if len(self) >= MOST:
            for transport in [*self._waiting, *self._answered]:
                if transport.is_closing():
                    self._end(transport)
        if len(self) >= MOST:
            self._end_oldest()
        return len(self) < MOST

    def _end_oldest(self) -> None:
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            self._end(oldest)

    def _end(self, transport: asyncio.BaseTransport) -> None:
        for known in (self._waiting, self._answered):
            timer = known.pop(transport, None)
            if timer is not None:
                timer.cancel()
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()  # without waiting for unsent data
        else:
            transport.close()
