"""The plugin `delivery`: what a bot remembers of its conversations is a part of its transactions.

The names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from db_manager.delivery.delivery_config import DeliveryConfig
    from db_manager.delivery.delivery_plugin import DeliveryPlugin
    from db_manager.delivery.fsm import SqlStorage
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__,
        {
            "delivery_config": ("DeliveryConfig",),
            "fsm": ("SqlStorage",),
            "delivery_plugin": ("DeliveryPlugin",),
        },
    )

__all__ = ["DeliveryConfig", "DeliveryPlugin", "SqlStorage"]
