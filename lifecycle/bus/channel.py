"""One topic of a bus: how an event reaches whoever listens to it."""

from asyncio import CancelledError
from collections.abc import Iterable
from typing import Final

from lifecycle.bus.subscription import Subscription, causes_of_this, refuse_coroutine
from lifecycle.event import Event

# Looked up once: `publish` is called for every event.
_get_causes: Final = causes_of_this.get
_set_causes: Final = causes_of_this.set
_reset_causes: Final = causes_of_this.reset


class Channel:
    """One topic of a bus, resolved once and kept by frequent publishers.

    `if channel.handlers: channel.publish(Made(...))` costs next to nothing while nobody listens.
    """

    __slots__ = ("handlers", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        #: Who listens, in the order they subscribed; kept up to date by the bus.
        self.handlers: tuple[Subscription, ...] = ()

    def publish(self, event: Event) -> None:
        """Deliver *event*, which is of this topic; see `EventBus.publish`."""
        # One loop without calls of our own, because it runs for every event. The causes are the
        # subscriptions whose work led here. A handler is one of three cases:
        #   - It is among the causes: it is left out, else it would be called without end.
        #   - It is active: it runs with itself added to the causes, for what it publishes in turn.
        #   - It is passive, so it causes nothing: causes are set only to report its failure.
        handlers: Iterable[Subscription] = self.handlers
        if not handlers:
            return
        causes = _get_causes()
        if causes:
            handlers = [each for each in handlers if each not in causes]
        callers_causes = None  # the way back to them, once they have been changed
        try:
            for subscription in handlers:
                if not subscription.passive:
                    mine = subscription.itself | causes if causes else subscription.itself
                    if callers_causes is None:
                        callers_causes = _set_causes(mine)
                    else:
                        _set_causes(mine)
                deliver = subscription.deliver  # called by itself: a call of an attribute is slower
                try:
                    value = deliver(event)
                    if value is not None:
                        refuse_coroutine(value)
                except (Exception, CancelledError) as error:  # noqa: BLE001 -- EventBus.publish
                    token = _set_causes(subscription.itself | causes)  # of a passive one, too
                    if callers_causes is None:
                        callers_causes = token
                    subscription.failed(event, error)
        finally:
            if callers_causes is not None:
                _reset_causes(callers_causes)

    def __repr__(self) -> str:
        return f"<Channel {self.topic!r} handlers={len(self.handlers)}>"
