"""The event bus: who listens to which topic, and how an event reaches them.

Outside of this package only the names below are imported, and `topics`, which say what a pattern
means.
"""

from lifecycle.bus.bus import EventBus
from lifecycle.bus.channel import Channel
from lifecycle.bus.subscription import Subscription

__all__ = ["Channel", "EventBus", "Subscription"]
