"""The plugin `delivery`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import db_manager.delivery.table.updates_table  # noqa: F401 -- tables are created at the start
from db_manager import events as facts
from db_manager.database.database import Database
from db_manager.delivery.behind import Behind
from db_manager.delivery.broadcast.broadcaster import Broadcaster
from db_manager.delivery.broadcast.broadcasts import Broadcasts
from db_manager.delivery.broker.outgoing import BROKER
from db_manager.delivery.broker.publisher import Publisher
from db_manager.delivery.calls.early import noticing
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.fsm import SqlStorage
from db_manager.delivery.inbox.inbox import Inbox
from db_manager.delivery.inbox.receiving import receiving
from db_manager.delivery.inbox.updates import Updates
from db_manager.delivery.lookout import Lookout
from db_manager.delivery.outbox import Outbox
from db_manager.delivery.relay import Relay
from db_manager.delivery.table.claims import Claims
from db_manager.delivery.table.members import Alone, Member
from db_manager.engine.create import create_beside
from lifecycle.error_text import textless
from lifecycle.errors import ContextClosedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

if TYPE_CHECKING:
    from aiogram import Bot, Dispatcher
    from sqlalchemy.ext.asyncio import AsyncEngine

_logger = logging.getLogger("db_manager.delivery")

#: Connections of the relay beside the pool: marks and looks; signs of life; turns of broadcasts.
_CONNECTIONS: Final = 4
#: Shares of the time for a stop: in which messages are still sent, and answers are waited for.
_SENDING: Final = 0.4
_WAITING: Final = 0.45


class DeliveryPlugin(Plugin):
    """Lets messages of a bot, and states and data of its FSM, be rows of its database.

    What `uow.send` was given is sent once the unit is committed, also after the death of the
    process. A dispatcher that was given a storage keeps it.

    Added in 0.2.
    """

    name = "delivery"
    requires = ("db_manager",)
    config_model = DeliveryConfig
    stop_timeout = 1.5

    _outbox: Outbox
    _bots: "dict[int, Bot]"
    _senders: set[int]
    _relay: Relay | None
    _inbox: Inbox | None
    _broadcaster: Broadcaster | None

    async def load(self, context: PluginContext) -> None:
        """Give the dispatcher a storage, and units an outbox."""
        config: DeliveryConfig = context.config
        dispatcher = context.services.get("aiogram:dispatcher")
        if dispatcher is not None and config.fsm:
            storage = SqlStorage(context.services["db_manager:uow_factory"])
            if not _has_storage(dispatcher):
                await context.enter(_with(dispatcher.fsm, "storage", storage))
        if config.outbox:
            database = Database.of(context.services["db_manager:engine"])
            engine = await context.enter(_beside(database.engine))
            self._bots, self._senders = {}, set()
            self._engine, self._has_members = engine, database.dialect.has_server
            self._claims = Claims(engine, has_members=self._has_members)
            self._outbox = Outbox(self._claims, self._bots, self._senders, config)
            await context.enter(_with(database, "delivery", self._outbox))
            context.provide("broadcasts", Broadcasts(engine))

    async def start(self, context: PluginContext) -> None:
        """Send what is open, and what comes."""
        config: DeliveryConfig = context.config
        bots = context.services.get("aiogram:bots", ())
        self._relay = self._inbox = self._broadcaster = None
        if not config.outbox:
            return
        self._bots.update({bot.id: bot for bot in bots})
        self._senders.update(self._bots)
        publisher = await self._make_publisher(context)
        self._member = self._make_member(context)
        relay = Relay(
            self._claims,
            self._member,
            self._bots,
            config,
            context.bus,
            lambda refused: _tell_refused(context, refused=refused),
            publisher,
        )
        behind = Behind(context.bus)
        lookout = Lookout(
            relay, self._claims, self._member, self._senders, config, context.bus, behind
        )
        context.probe(f"{self.name}:outbox", lookout.levels)
        context.spawn(lookout.run(), f"{self.name}.relay")
        self._relay = self._outbox.relay = relay
        if self._bots:
            self._broadcaster = Broadcaster(
                self._engine, self._claims, relay, self._bots, config, context.bus
            )
            context.spawn(self._broadcaster.run(), f"{self.name}.broadcasts")
        database = Database.of(context.services["db_manager:engine"])
        noticed = noticing(database, self._bots, config.direct_calls, context.publish)
        await context.enter(noticed)
        dispatcher = context.services.get("aiogram:dispatcher")
        if config.inbox and self._bots and dispatcher is not None:
            await self._begin_inbox(context, dispatcher, behind)

    async def _begin_inbox(
        self, context: PluginContext, dispatcher: "Dispatcher", behind: Behind
    ) -> None:
        config: DeliveryConfig = context.config
        inbox = Inbox(
            Updates(self._engine, has_members=self._has_members),
            self._member,
            dispatcher,
            self._bots,
            context.services["db_manager:uow_factory"],
            config,
            context.bus,
            behind,
        )
        context.probe(f"{self.name}:inbox", inbox.levels)
        context.spawn(inbox.run(), f"{self.name}.inbox")
        await context.enter(receiving(inbox, dispatcher, self._bots, config.order))
        self._inbox = inbox

    async def stop(self, context: PluginContext) -> None:
        """Send what fits into a part of the time, and let others have the rest."""
        inbox, self._inbox = self._inbox, None
        relay, self._relay = self._relay, None
        if relay is None:
            return
        try:
            async with asyncio.timeout(context.stop_deadline):
                if inbox is not None:
                    await inbox.stop()
                if self._broadcaster is not None:
                    await self._broadcaster.stop()
                await relay.stop(context.stop_deadline * _SENDING, context.stop_deadline * _WAITING)
        except Exception as error:
            _logger.warning(
                "what this process has to send is not given back, and waits for the lease or the "
                "next start",
                exc_info=textless(error),
            )
        self._outbox.relay = None

    async def _make_publisher(self, context: PluginContext) -> Publisher | None:
        config: DeliveryConfig = context.config
        url = config.broker.get_secret_value() if config.broker else ""
        # A SQLite file has one process that sends: the bot's, or a test.
        if not (url and (self._bots or self._has_members or url.startswith("memory://"))):
            return None
        publisher = Publisher(url)
        await context.enter(aclosing(publisher))
        self._senders.add(BROKER)
        return publisher

    def _make_member(self, context: PluginContext) -> Alone:
        if not self._has_members or not self._senders:
            return Alone()
        config: DeliveryConfig = context.config
        return Member(
            self._engine,
            config.lease,
            lambda me: context.publish(facts.MemberExpelled(member=me)),
            lambda me: context.publish(facts.MemberJoined(member=me)),
        )


def _tell_refused(context: PluginContext, *, refused: bool) -> None:
    with suppress(ContextClosedError):  # it stops
        if refused:
            context.degraded("Telegram refuses the token of a bot: its messages wait")
        else:
            context.recovered()


@asynccontextmanager
async def _beside(engine: "AsyncEngine") -> "AsyncIterator[AsyncEngine]":
    """Yield an engine for the relay, which does not wait for handlers that wait for it."""
    own = create_beside(engine, _CONNECTIONS)
    try:
        yield own
    finally:
        if own.sync_engine.pool is not engine.sync_engine.pool:
            await own.dispose()


def _has_storage(dispatcher: Any) -> bool:
    """Return True if *dispatcher* was given a storage."""
    from aiogram.fsm.storage.memory import MemoryStorage  # noqa: PLC0415 -- aiogram: only for a bot

    return type(dispatcher.fsm.storage) is not MemoryStorage


@contextmanager
def _with(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let *owner* have *value* under that name during the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
