"""What a unit says to others once it is committed: messages of its bot, and events for a broker."""

from abc import abstractmethod
from datetime import datetime
from typing import Any

from sqlalchemy import SelectBase

from db_manager.database.callbacks import Callbacks
from db_manager.database.database import Database
from db_manager.errors import UnitOfWorkStateError
from db_manager.lanes.lane import Unit
from db_manager.sending import Delivery, DeliveryOffError, Sending


class Announcements(Unit):
    """What is sent after the COMMIT, and is a part of it."""

    __slots__ = ("_database",)

    _database: Database

    @abstractmethod
    def registered(self) -> Callbacks:
        """Return what the unit does at its end."""

    def send(self, method: Any, *, at: datetime | None = None, once: bool = False) -> Sending:
        """Let a call of the Bot API be a part of the unit: it is sent once that is committed.

            uow.send(message.answer("Noted."))

        Messages of one chat are sent in the order of their commits. It is dropped with its
        savepoint. It may come twice after the process died: Telegram has no key by which it would
        know it again.

        Added in 0.2.

        Args:
            method: The call, not awaited: what `message.answer(...)` returns.
            at: When it is due, with a timezone; None is at once.
            once: Rather send it not at all than twice.

        Returns:
            The message: its `id` and `state`; `await` it after the block for Telegram's answer.

        Raises:
            DeliveryOffError: The plugin `delivery` is not there.
            NotStorableError: It has something in it that cannot be kept, as a large file.
            OSError: A file of it cannot be read.
            UnitOfWorkStateError: The unit is not active, or was opened to read.
            UnitOfWorkTaskError: Another task owns it.
            ValueError: *at* has no timezone, or it is not known which bot is to send it.
        """
        sending = self._delivery().prepare(method, at, once=once)
        self.registered().sendings.append(sending)
        return sending

    async def broadcast(self, method: Any, *, to: SelectBase, once: bool = False) -> int:
        """Let a call of the Bot API go to many chats once the unit is committed.

            await uow.broadcast(SendMessage(chat_id=EACH, text="Hi."), to=select(Guest.chat_id))

        The chats are those that the SELECT finds now, each once. Messages are as those of `send`,
        and sent at the rate of `[delivery] bulk_rate`.

        Added in 0.2.

        Args:
            method: The call, not awaited, with `chat_id=EACH`.
            to: Its first column is the chat; each further one replaces the field of its name, as
                in `("Hi, " + Guest.name).label("text")`, unless it is NULL.
            once: Rather send it to a chat not at all than twice.

        Returns:
            Its number, for the service `delivery:broadcasts`.

        Raises:
            DbManagerError: As of `send`; no file can be kept here.
            TypeError: It is no call, or *to* no SELECT of numbers.
            ValueError: It goes to one chat, a column is no field of it, or the bot is unclear.
        """
        return await self._delivery().broadcast(self, method, to, once=once)

    def publish(self, subject: str, payload: Any = None, *, key: str = "") -> Sending:
        """Let an event for other programs be a part of the unit: a broker has it after the COMMIT.

            uow.publish("notes.added", {"id": note.id}, key=str(note.author))

        It is dropped with its savepoint. It may come twice after a kill, with the same id.

        Added in 0.2.

        Args:
            subject: What it is about, in words with dots between them.
            payload: What it says: of JSON's types, or a model of pydantic.
            key: Events with one key come in the order of their commits; those without in any.

        Returns:
            The event: its `id` and `state`; `await` it after the block until the broker has it.

        Raises:
            DeliveryOffError: The plugin `delivery`, or `[delivery] broker`, is not there.
            NotStorableError: JSON does not know something in *payload*.
            UnitOfWorkStateError: The unit is not active, or was opened to read.
            UnitOfWorkTaskError: Another task owns it.
            ValueError: *subject* is no words with dots, or it or *key* is too long.
        """
        sending = self._delivery().prepare_event(subject, payload, key)
        self.registered().sendings.append(sending)
        return sending

    def _delivery(self) -> Delivery:
        """Return what keeps messages.

        Raises:
            DeliveryOffError: Nothing is there.
            UnitOfWorkStateError: The unit is not active, or was opened to read.
        """
        self.check()
        if self._database.delivery is None:
            raise DeliveryOffError
        if self.whole.read_only:
            raise UnitOfWorkStateError(
                self.state, "a unit that reads sends no message", "open it without read_only"
            )
        return self._database.delivery
