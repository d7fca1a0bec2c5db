"""The plugin `delivery`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.fsm import SqlStorage
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin


class DeliveryPlugin(Plugin):
    """Lets states and data of aiogram's FSM be rows of the bot's database.

    A dispatcher that was given a storage keeps it.

    Added in 0.2.
    """

    name = "delivery"
    requires = ("db_manager",)
    config_model = DeliveryConfig

    async def load(self, context: PluginContext) -> None:
        """Give the dispatcher a storage."""
        config: DeliveryConfig = context.config
        dispatcher = context.services.get("aiogram:dispatcher")
        if dispatcher is not None and config.fsm:
            storage = SqlStorage(context.services["db_manager:uow_factory"])
            await context.enter(_remembering(dispatcher, storage))


@contextmanager
def _remembering(dispatcher: Any, storage: SqlStorage) -> Iterator[None]:
    """Let *dispatcher* use *storage* during the block, unless it was given one."""
    from aiogram.fsm.storage.memory import MemoryStorage  # noqa: PLC0415 -- aiogram: only for a bot

    before = dispatcher.fsm.storage
    if type(before) is not MemoryStorage:
        yield
        return
    dispatcher.fsm.storage = storage
    try:
        yield
    finally:
        dispatcher.fsm.storage = before
