"""Looks for the messages of an application when a test says so."""

import asyncio
import time
from typing import Any

from support.kept import Kept

from db_manager.delivery.behind import Behind
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.lookout import Lookout
from db_manager.delivery.relay import Relay


class Searching:
    """Searches in an application when it is told to.

    Args:
        app: The application.

    Attributes:
        relay: Its relay.
    """

    def __init__(self, app: Kept) -> None:
        plugin: Any = app.app.plugins["delivery"].plugin
        self.relay: Relay = plugin._relay
        bus, config = app.app.bus, DeliveryConfig()
        self._lookout = Lookout(
            self.relay, plugin._claims, plugin._member, plugin._bots, config, bus, Behind(bus)
        )

    async def begins(self) -> None:
        """Wait until units write as claimed."""
        while not self.relay.claims_as:  # noqa: ASYNC110 -- it has begun
            await asyncio.sleep(0.01)

    async def search(self) -> None:
        """Search, as after an answer that was lost."""
        self.relay.lost_at = time.monotonic()
        await self._lookout._search()
