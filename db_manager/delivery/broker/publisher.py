"""Brings events to the broker that the configuration names."""

import asyncio
from contextlib import suppress
from typing import Final

from db_manager.delivery.broker.brokers import ANSWER, BROKERS, Broker
from db_manager.delivery.broker.outgoing import read
from db_manager.delivery.table.claims import Claimed
from db_manager.errors import ConfigError

#: Failures in a row after which the client is made anew, which should have connected by itself.
_ENOUGH: Final = 5


class RefusedEventError(Exception):
    """The broker will never take an event."""


class Publisher:
    """Connects when there is something to say, and goes on through outages.

    Args:
        url: Where the broker is.

    Raises:
        ConfigError: No broker is known for it, or its client is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connecting = asyncio.Lock()
        self._broker: Broker | None = None
        self._failures = 0
        scheme = url.partition("://")[0]
        kind = BROKERS.get(scheme)
        if kind is None:
            raise ConfigError(
                f"[delivery] broker: no broker is known for {scheme}://; write one of "
                f"{', '.join(f'{each}://' for each in BROKERS)}"
            )
        self._kind: type[Broker] = kind
        try:
            kind(url)
        except ImportError as error:
            raise ConfigError(
                f"[delivery] broker: {error}; install it with pip install "
                f"'faststream[{kind.extra}]'"
            ) from error

    async def publish(self, row: Claimed) -> None:
        """Return once the broker has the event of *row*.

        Raises:
            RefusedEventError: It will never take it.
            Exception: It has not, now; the errors are those of its client.
        """
        event, broker = read(row.method, row.payload), None
        try:
            async with asyncio.timeout(2 * ANSWER):
                broker = await self._connected()
                await broker.publish(event)
        except Exception as error:
            if broker is not None and isinstance(error, broker.refusals):
                raise RefusedEventError from error
            if broker is self._broker:  # what an older one could not do says nothing of this one
                self._failures += 1
            if self._failures >= _ENOUGH:
                await self.aclose()
            raise
        self._failures = 0

    async def aclose(self) -> None:
        """Close the connection; the next event opens another one."""
        broker, self._broker, self._failures = self._broker, None, 0
        if broker is not None:
            with suppress(Exception):  # it is gone
                await broker.close()

    async def _connected(self) -> Broker:
        async with self._connecting:
            if self._broker is None:
                broker = self._kind(self._url)
                try:
                    await broker.connect()
                except BaseException:
                    with suppress(Exception):
                        await broker.close()
                    raise
                self._broker = broker
            return self._broker
