"""What has become of the messages that code under test gave to `uow.send`."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect, text

from db_manager.errors import DbManagerError
from db_manager.sending import SendingState
from db_manager.testing.sandbox import Sandbox

if TYPE_CHECKING:
    from db_manager.delivery.broker.outgoing import OutgoingEvent

_TABLE: Final = "delivery__outbox"
_ROWS: Final = text(f"SELECT * FROM {_TABLE} ORDER BY id")  # noqa: S608 -- a name of ours
#: Seconds between two looks at the table.
_LOOK: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message of a committed unit, as it is in the outbox.

    Args:
        id: Its number.
        method: Name of the method, as `sendMessage`; or the subject of an event.
        state: `open`, `sent`, `dead`, `unknown` or `expired`.
        fields: The arguments as the Bot API names them; empty once it is sent, when they are
            erased: what Telegram has is `await ada.reply()`.
        due: When it is to be sent.
        once: Rather not at all than twice.
        attempts: How often it was tried, once it is over.
        message_id: Telegram's number of the message that was sent.
        error: Why it is dead or unknown; else empty.
    """

    id: int
    method: str
    state: SendingState
    fields: dict[str, Any]
    due: datetime
    once: bool
    attempts: int
    message_id: int | None
    error: str


class Outbox:
    """Reads the outbox of a sandbox.

        await ada.say("/note milk")
        [message] = await outbox.settled()
        assert message.state == "sent"

    Args:
        sandbox: The sandbox.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def messages(self) -> list[OutboxMessage]:
        """Return all messages of committed units, in the order in which they were written.

        Raises:
            DbManagerError: There is no outbox: nothing with the plugin `delivery` has started.
        """
        async with self._sandbox.engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table(_TABLE)):
                raise DbManagerError(
                    "there is no outbox in the sandbox: start an application with the plugin "
                    "`delivery`, as by telegram.run(sandbox.application(DeliveryPlugin))"
                )
            return [_message(row) for row in await connection.execute(_ROWS)]

    def published(self) -> list["OutgoingEvent"]:
        """Return the events of `uow.publish` that the broker has, in the order of their coming.

        In a sandbox it is a list, whatever broker is configured.
        """
        from db_manager.delivery.broker.brokers import Memory  # noqa: PLC0415 -- only when used

        return list(Memory.taken.get(self._sandbox.broker, ()))

    async def settled(self, timeout: float = 5.0) -> list[OutboxMessage]:  # noqa: ASYNC109 -- the error must name what was waited for
        """Wait until nothing is open that is due, and return all messages.

        Args:
            timeout: Seconds to wait.

        Raises:
            AssertionError: Some are still open; it shows them.
            DbManagerError: As `messages`.
        """
        late_at = asyncio.get_running_loop().time() + timeout
        while True:
            every, now = await self.messages(), datetime.now(UTC)
            left = [each for each in every if each.state == "open" and each.due <= now]
            if not left:
                return every
            if asyncio.get_running_loop().time() > late_at:
                told = "\n  ".join(map(str, left))
                raise AssertionError(f"messages that are open after {timeout:g} s:\n  {told}")
            await asyncio.sleep(_LOOK)


def _message(row: Any) -> OutboxMessage:
    from db_manager.delivery.relay import STATES  # noqa: PLC0415 -- aiogram: only when used

    due, fields = row.due_at, json.loads(row.payload or "{}")
    return OutboxMessage(
        id=row.id,
        method=row.method,
        state=STATES[row.state],
        fields={name: value for name, value in fields.items() if value is not None},
        due=due if isinstance(due, datetime) else datetime.fromtimestamp(due, UTC),
        once=bool(row.once),
        attempts=row.attempts,
        message_id=row.message_id,
        error=row.error or "",
    )
