"""Messages that are sent once their unit is committed: what becomes of each."""

import asyncio
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from db_manager.errors import DbManagerError, UnitOfWorkStateError

SendingState = Literal["new", "open", "sent", "dead", "unknown", "expired", "dropped"]


class DeliveryOffError(DbManagerError):
    """A message was given to a unit, and nothing is there that would keep it.

    Args:
        reason: What is not there, and what to do; by default the plugin.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return self.reason or (
            "nobody would send this message: the plugin `delivery` is not loaded, or its outbox is "
            'off; name it in config.toml, [app] plugins = ["db_manager", "delivery"], or in '
            "Application([DatabasePlugin, DeliveryPlugin])"
        )


class NotStorableError(DbManagerError):
    """A message has something in it that a row cannot keep.

    Args:
        method: Name of the method, as `sendPhoto`.
        field: Where it is, as `media[0].media`.
        fix: What to do instead.
    """

    def __init__(self, method: str, field: str, fix: str) -> None:
        self.method = method
        self.field = field
        self.fix = fix
        super().__init__(method, field, fix)

    def __str__(self) -> str:
        return f"{self.method} cannot be kept until it is sent: {self.field} {self.fix}"


class EarlyCallError(DbManagerError):
    """A call of the Bot API was awaited in a unit that has written and is not committed.

    Args:
        method: Name of the method, as `sendMessage`.
        place: Where it was awaited, as `bot/notes.py:42 in save`.
    """

    def __init__(self, method: str, place: str) -> None:
        self.method = method
        self.place = place
        super().__init__(method, place)

    def __str__(self) -> str:
        return (
            f"{self.method} at {self.place} would be sent before its unit is committed, and speak "
            f"of what may be rolled back: write uow.send(...) around the call instead of await, "
            f"which sends it after the commit; or await it after the block of the unit"
        )


class MessageDeadError(DbManagerError):
    """A message will never be sent: Telegram refuses it, or it came too late.

    Args:
        number: Its `id` in the outbox.
        reason: What Telegram said.
    """

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(number, reason)

    def __str__(self) -> str:
        return f"message {self.number} is not sent: {self.reason}"


class MessageUnknownError(DbManagerError):
    """Whether a message with `once=True` was sent is unknown, and it is not sent again.

    Args:
        number: Its `id` in the outbox.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)

    def __str__(self) -> str:
        return f"message {self.number} may have been sent, and is not sent again"


class Sending:
    """A message of a unit; once that is committed, `await` it for Telegram's answer.

    Added in 0.2.

    Args:
        row: What is written.
        files: Files that are written with it.

    Attributes:
        id: Its number in the outbox; 0 until the unit is at its end.
        state: `new` in the open unit, `open` until it is `sent`, `dead`, `unknown` (with
            `once=True` only) or `expired`; `dropped` when its unit or savepoint was rolled back.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_ended",
        "_reason",
        "files",
        "id",
        "owner",
        "row",
        "state",
    )

    def __init__(self, row: dict[str, Any], files: Sequence[Any] = ()) -> None:
        self.row = row
        self.files = files  # until they are written
        self.id = 0
        self.owner = 0  # as whom it was claimed when it was written
        self.state: SendingState = "new"
        self._ended: asyncio.Future[None] | None = None
        self._answer: Any = None
        self._reason = ""

    @property
    def is_awaited(self) -> bool:
        """True while somebody waits for it."""
        return self._ended is not None and not self._ended.done()

    def settle(self, state: SendingState, answer: Any = None, reason: str = "") -> None:
        """Say what has become of it."""
        self.state, self._answer, self._reason = state, answer, reason
        if self._ended is not None and not self._ended.done() and state != "open":
            self._ended.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait until it is sent.

        Returns:
            Telegram's answer; None when another process has sent it.

        Raises:
            MessageDeadError: It will not be sent.
            MessageUnknownError: It may have been sent, and is not sent again.
            UnitOfWorkStateError: Its unit is open still, or was rolled back.
        """
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self.state == "new":
            raise UnitOfWorkStateError(
                "active", "its message is not sent yet", "await it after the block of the unit"
            )
        if self.state == "open":
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)  # a waiter that is cancelled takes no other along
        if self.state == "dropped":
            raise UnitOfWorkStateError(
                "rolled_back", "its message was dropped with it", "send it in another unit"
            )
        if self.state == "unknown":
            raise MessageUnknownError(self.id)
        if self.state != "sent":
            raise MessageDeadError(self.id, self._reason)
        return self._answer

    def __repr__(self) -> str:
        return f"<Sending {self.id} {self.state}>"


class Delivery(Protocol):
    """What keeps the messages of the units of a database: the plugin `delivery`."""

    def prepare(self, method: Any, at: datetime | None, *, once: bool) -> Sending:
        """Return *method* as what can be written.

        Raises:
            NotStorableError: It cannot.
        """

    def prepare_event(self, subject: str, payload: Any, key: str) -> Sending:
        """Return an event as what can be written.

        Raises:
            DeliveryOffError: No broker is configured.
            NotStorableError: It cannot be kept.
        """

    async def broadcast(self, unit: Any, method: Any, to: Any, *, once: bool) -> int:
        """Write *method* for the chats that the SELECT *to* finds; return its number.

        Raises:
            NotStorableError: It cannot be kept.
        """

    def wants(self, unit: Any) -> bool:
        """Return True if `flush` is to be called for *unit* when it wrote something."""

    async def flush(self, unit: Any, sendings: Sequence[Sending]) -> None:
        """Write *sendings* in the transaction of *unit*, as the last statements of it."""

    def ended(self, unit: Any, sendings: Sequence[Sending]) -> None:
        """Be told that *unit* has ended; whether `flush` was called for it or not."""
