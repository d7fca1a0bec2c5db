"""The plugin `delivery`: updates, messages and conversations are a part of a bot's transactions.

The names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from db_manager.delivery.broadcast.begin import EACH
    from db_manager.delivery.broadcast.broadcasts import BroadcastCounts, Broadcasts
    from db_manager.delivery.broker.outgoing import OutgoingEvent
    from db_manager.delivery.delivery_config import DeliveryConfig
    from db_manager.delivery.delivery_plugin import DeliveryPlugin
    from db_manager.delivery.fsm import SqlStorage
    from db_manager.delivery.inbox.handling import UpdateCompletedError, UpdateTakenError
    from db_manager.delivery.inbox.receiving import webhook
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__,
        {
            "broadcast.begin": ("EACH",),
            "broadcast.broadcasts": ("BroadcastCounts", "Broadcasts"),
            "broker.outgoing": ("OutgoingEvent",),
            "delivery_config": ("DeliveryConfig",),
            "fsm": ("SqlStorage",),
            "delivery_plugin": ("DeliveryPlugin",),
            "inbox.handling": ("UpdateCompletedError", "UpdateTakenError"),
            "inbox.receiving": ("webhook",),
        },
    )

__all__ = [
    "EACH",
    "BroadcastCounts",
    "Broadcasts",
    "DeliveryConfig",
    "DeliveryPlugin",
    "OutgoingEvent",
    "SqlStorage",
    "UpdateCompletedError",
    "UpdateTakenError",
    "webhook",
]
