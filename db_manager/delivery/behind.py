"""Tells when what is open has waited for too long, and when that is over."""

import time
from typing import Final, Literal

from db_manager import events as facts
from lifecycle.bus import EventBus

#: Seconds for which the oldest waits when this process is behind, and when it is no more.
_TOO_LONG: Final = 10.0
_AGAIN_IN_TIME: Final = 5.0


class Behind:
    """Compares what waits with what may.

    Args:
        bus: Where that is told.
    """

    def __init__(self, bus: EventBus) -> None:
        self._behind = bus.channel(facts.DeliveryBehind)
        self._caught_up = bus.channel(facts.DeliveryCaughtUp)
        self._open = {"messages": 0, "updates": 0}
        self._oldest = {"messages": 0.0, "updates": 0.0}
        self._since: float | None = None

    def note(self, what: Literal["messages", "updates"], number: int, oldest: float) -> None:
        """Take down what waits.

        Args:
            what: Of which kind.
            number: How many are open and due.
            oldest: Seconds for which the oldest has waited.
        """
        self._open[what], self._oldest[what] = number, oldest
        longest, now = max(self._oldest.values()), time.monotonic()
        if self._since is None and longest > _TOO_LONG:
            self._since = now
            if self._behind.handlers:
                messages, updates = self._open["messages"], self._open["updates"]
                self._behind.publish(
                    facts.DeliveryBehind(messages=messages, updates=updates, oldest=longest)
                )
        elif self._since is not None and longest <= _AGAIN_IN_TIME:
            if self._caught_up.handlers:
                self._caught_up.publish(facts.DeliveryCaughtUp(duration=now - self._since))
            self._since = None
