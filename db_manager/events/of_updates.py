"""Every event of an update in the inbox: ids, never what was said."""

from typing import ClassVar

from lifecycle.event import Event, Level


class UpdateEvent(Event, kw_only=True):
    """Base of the events about updates of the inbox.

    Args:
        bot_id: The bot that they are for.
    """

    bot_id: int


class UpdateStored(UpdateEvent, kw_only=True):
    """Updates are in the table: Telegram may forget them.

    Args:
        count: How many that were not there.
    """

    topic: ClassVar[str] = "update.stored"
    level: ClassVar[Level] = "debug"
    measures: ClassVar[tuple[str, ...]] = ("count",)

    count: int


class UpdateRepeated(UpdateEvent, kw_only=True):
    """Telegram has sent an update again, which is stored already.

    Args:
        update_id: Telegram's number of it.
    """

    topic: ClassVar[str] = "update.repeated"

    update_id: int


class UpdateDone(UpdateEvent, kw_only=True):
    """An update was handled, and the table says so.

    Args:
        update_id: Telegram's number of it.
        attempts: How often it was tried by this process.
        wait: Seconds from when it was stored.
    """

    topic: ClassVar[str] = "update.done"
    level: ClassVar[Level] = "debug"
    measures: ClassVar[tuple[str, ...]] = ("wait",)

    update_id: int
    attempts: int
    wait: float


class UpdateRetried(UpdateEvent, kw_only=True):
    """An update could not be handled, and will be handled again.

    Args:
        update_id: Telegram's number of it.
        attempts: How often it was tried by this process.
        error: Why, in one line, without the error's text.
    """

    topic: ClassVar[str] = "update.retried"

    update_id: int
    attempts: int
    error: str


class UpdateTaken(UpdateEvent, kw_only=True):
    """An update that this process tried is that of another one, which took this one for dead.

    Args:
        update_id: Telegram's number of it.
        attempts: How often it was tried by this process.
    """

    topic: ClassVar[str] = "update.taken"
    level: ClassVar[Level] = "warning"

    update_id: int
    attempts: int


class UpdateParked(UpdateEvent, kw_only=True):
    """An update is not handled any more: it failed too often, or its process died each time.

    Args:
        update_id: Telegram's number of it.
        attempts: How often it was tried by this process.
        error: Why, in one line, without the error's text.
    """

    topic: ClassVar[str] = "update.parked"
    level: ClassVar[Level] = "error"

    update_id: int
    attempts: int
    error: str
