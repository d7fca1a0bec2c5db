"""What `uow.send` does: a message is a row of the unit, and the relay's once that is committed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aiogram import Bot
from aiogram.methods import TelegramMethod

from db_manager.database.open_unit import UnitState
from db_manager.delivery.broadcast.begin import begin
from db_manager.delivery.broker.outgoing import written
from db_manager.delivery.calls.stored import lane_of, stored
from db_manager.delivery.delivery_config import DeliveryConfig
from db_manager.delivery.inbox.handling import CURRENT
from db_manager.delivery.relay import Relay
from db_manager.delivery.table.claims import Claimed, Claims
from db_manager.sending import DeliveryOffError, Sending
from db_manager.unit.uow import UnitOfWork

_NO_CALL: Final = "uow.{} takes a call that is not awaited, as message.answer(...), and not {}"


class Outbox:
    """Keeps the messages of the units of a database.

    Args:
        claims: The statements.
        bots: The bots of this process; more may come.
        senders: Their numbers, and that of a broker, if this process sends.
        config: The section [delivery].
    """

    def __init__(
        self,
        claims: Claims,
        bots: Mapping[int, Bot],
        senders: Collection[int],
        config: DeliveryConfig,
    ) -> None:
        self._claims = claims
        self._bots = bots
        self._senders = senders
        self._has_broker = bool(config.broker)
        self._max_file = config.max_file
        #: What sends them, while it does.
        self.relay: Relay | None = None
        #: The relay for which a unit writes, by its number.
        self._inside: dict[int, Relay] = {}

    def prepare(self, method: Any, at: datetime | None, *, once: bool) -> Sending:
        """Return *method* as what can be written.

        Raises:
            NotStorableError: It has something in it that a row cannot keep.
            OSError: A file of it cannot be read.
            TypeError: It is no call of the Bot API.
            ValueError: *at* has no timezone, or it is not known which bot is to send it.
        """
        if not isinstance(method, TelegramMethod):
            raise TypeError(_NO_CALL.format("send", type(method).__name__))
        if at is not None and at.tzinfo is None:
            raise ValueError("at has no timezone: write datetime.now(UTC) + timedelta(...)")
        bot_id = self._bot_of(method)
        payload, files = stored(method, self._max_file)
        row = {
            "bot_id": bot_id,
            "lane": lane_of(bot_id, method),
            "method": method.__api_method__,
            "payload": payload,
            "once": once,
            "due": None if at is None else at.timestamp(),
        }
        return Sending(row, files)

    async def broadcast(self, unit: UnitOfWork, method: Any, to: Any, *, once: bool) -> int:
        """Write *method* for the chats of *to*, in *unit*; return the number of the broadcast.

        Raises:
            NotStorableError: It has something in it that a row cannot keep, or a file.
            TypeError: It is no call of the Bot API, or *to* no SELECT of chats.
            ValueError: It goes to one chat, a column is no field of it, or it is not known which
                bot is to send it.
        """
        if not isinstance(method, TelegramMethod):
            raise TypeError(_NO_CALL.format("broadcast", type(method).__name__))
        bot_id = self._bot_of(method)
        return await begin(unit, bot_id, method, to, once=once, max_file=self._max_file)

    def prepare_event(self, subject: str, payload: Any, key: str) -> Sending:
        """Return an event as what can be written.

        Raises:
            DeliveryOffError: No broker is configured.
            NotStorableError: JSON does not know something in it.
            ValueError: The subject is none, or it or the key is too long.
        """
        if not self._has_broker:
            raise DeliveryOffError(
                f"nobody would publish {subject!r}: name a broker, [delivery] broker = "
                f'"nats://localhost:4222"'
            )
        return Sending(written(subject, payload, key))

    def wants(self, unit: UnitOfWork) -> bool:
        """Return True if the commit of *unit* says that an update is done."""
        handling = CURRENT.get()
        return handling is not None and handling.wants(unit)

    async def flush(self, unit: UnitOfWork, sendings: Sequence[Sending]) -> None:
        """Say that the update is done, and write *sendings*, as the last statements of *unit*."""
        handling = CURRENT.get()
        if handling is not None and not handling.wants(unit):
            handling = None
        update = None
        if handling is not None:
            if sendings and self._claims.changes_two:
                update = handling.completion()
            else:
                await handling.complete_in(unit)
        if not sendings:
            return
        me, most, relay = 0, 0, self.relay
        senders: Collection[int] = ()
        if relay is not None:
            self._inside[unit.number] = relay
            me = relay.claims_as
            senders, most = relay.with_room(self._senders)
        rows = [sending.row for sending in sendings]
        written, is_mine = await self._claims.write(
            unit.connection, rows, me, most, senders, update
        )
        if handling is not None and update is not None:
            handling.completed(unit, is_mine=is_mine)
        for sending, (number, is_claimed) in zip(sendings, written, strict=True):
            sending.id = number
            sending.owner = me if is_claimed else 0
        if relay is not None:
            relay.committing[unit.number] = [each.id for each in sendings if each.owner]
        if any(sending.files for sending in sendings):
            await self._claims.write_files(
                unit.connection, {each.id: each.files for each in sendings}
            )

    def ended(self, unit: UnitOfWork, sendings: Sequence[Sending]) -> None:
        """Hand what was committed to the relay."""
        state = unit.state
        handling = CURRENT.get()
        if handling is not None:
            handling.ended(unit)
        for sending in sendings:
            sending.settle("dropped" if state is UnitState.ROLLED_BACK else "open")
            sending.files = ()
        relay = self._inside.pop(unit.number, None)
        if relay is None:
            return
        if state is not UnitState.ROLLED_BACK:
            relay.watch(sendings)
        if state is UnitState.COMMITTED:
            for sending in sendings:
                if sending.owner:
                    relay.take(Claimed.as_written(sending.row, sending.id, sending.owner))
            ours = (each.row for each in sendings if not each.owner)
            relay.want({row["lane"] for row in ours if row["bot_id"] in self._senders})
        elif state is UnitState.OUTCOME_UNKNOWN:
            relay.lost()
        relay.committing.pop(unit.number, None)

    def _bot_of(self, method: TelegramMethod[Any]) -> int:
        if method.bot is not None:
            return method.bot.id
        if len(self._bots) != 1:
            raise ValueError(
                f"which bot is to send this {method.__api_method__}? Bind the call: "
                f"method.as_(bot); there are {len(self._bots)} bots here"
            )
        return next(iter(self._bots))
