"""Every event of messages, of who sends them, and of what waits: ids, never what was said."""

from typing import ClassVar

from lifecycle.event import Event, Level


class MessageEvent(Event, kw_only=True):
    """Base of the events about one message of the outbox.

    Args:
        message: Its number in the table `delivery__outbox`.
        bot_id: The bot that sends it.
        method: Name of the method of the Bot API.
    """

    level: ClassVar[Level] = "debug"
    labels: ClassVar[tuple[str, ...]] = ("method",)

    message: int
    bot_id: int
    method: str


class MessageSent(MessageEvent, kw_only=True):
    """Telegram has taken a message.

    Args:
        attempts: How often it was sent by this process.
        wait: Seconds from when it was due.
    """

    topic: ClassVar[str] = "message.sent"
    measures: ClassVar[tuple[str, ...]] = ("wait",)

    attempts: int
    wait: float


class MessageRetried(MessageEvent, kw_only=True):
    """A message was not taken, and will be sent again.

    Args:
        attempts: How often it was sent by this process.
        wait: Seconds until the next time.
        error: Why, in one line, without the error's text.
    """

    topic: ClassVar[str] = "message.retried"
    level: ClassVar[Level] = "info"

    attempts: int
    wait: float
    error: str


class MessageDead(MessageEvent, kw_only=True):
    """A message will not be sent: Telegram refuses it, or it is too late for it.

    Args:
        error: Why, in one line, without the error's text, which the table has.
        expired: It came too late.
    """

    topic: ClassVar[str] = "message.dead"
    level: ClassVar[Level] = "warning"

    error: str
    expired: bool = False


class MessageUnknown(MessageEvent, kw_only=True):
    """Whether a message with `once=True` was sent is unknown; it is not sent again.

    Args:
        error: Why, in one line; empty after the death of the process that had it.
    """

    topic: ClassVar[str] = "message.unknown"
    level: ClassVar[Level] = "warning"

    error: str = ""


class ChatBlocked(Event, kw_only=True):
    """A chat does not take messages of the bot any more: it was blocked, or thrown out.

    Args:
        bot_id: The bot.
        chat: The chat.
    """

    topic: ClassVar[str] = "chat.blocked"

    bot_id: int
    chat: int | str


class ChatMigrated(Event, kw_only=True):
    """A group has become a supergroup, with another id; the message went there.

    Args:
        bot_id: The bot.
        chat: The group.
        to: The supergroup.
    """

    topic: ClassVar[str] = "chat.migrated"

    bot_id: int
    chat: int | str
    to: int


class BroadcastEvent(Event, kw_only=True):
    """Base of the events about a message that goes to many chats.

    Args:
        broadcast: Its number in the table `delivery__broadcast`.
        bot_id: The bot that sends it.
        total: How many chats it goes to.
        sent: How many have it.
        blocked: How many do not want to hear of the bot.
        failed: How many Telegram refuses for another reason.
        unknown: With `once=True`, of how many nobody knows.
    """

    broadcast: int
    bot_id: int
    total: int
    sent: int
    blocked: int
    failed: int
    unknown: int


class BroadcastProgress(BroadcastEvent, kw_only=True):
    """Another hundredth of the chats of a broadcast is done."""

    topic: ClassVar[str] = "broadcast.progress"
    level: ClassVar[Level] = "debug"


class BroadcastEnded(BroadcastEvent, kw_only=True):
    """A broadcast is over.

    Args:
        cancelled: It was cancelled: the rest of its chats does not get it.
    """

    topic: ClassVar[str] = "broadcast.ended"

    cancelled: bool


class EarlyCall(Event, kw_only=True):
    """A call of the Bot API was awaited in a unit that had written and was not committed.

    It is told once for each place of the code.

    Args:
        bot_id: The bot.
        method: Name of the method of the Bot API.
        place: Where it was awaited, as `bot/notes.py:42 in save`.
    """

    topic: ClassVar[str] = "delivery.early_call"
    level: ClassVar[Level] = "warning"
    labels: ClassVar[tuple[str, ...]] = ("method",)

    bot_id: int
    method: str
    place: str


class MemberEvent(Event, kw_only=True):
    """Base of the events about one of the processes that share the outbox.

    Args:
        member: Its number in the table `delivery__member`.
    """

    member: int


class MemberJoined(MemberEvent, kw_only=True):
    """This process takes part from now on."""

    topic: ClassVar[str] = "member.joined"


class MemberExpelled(MemberEvent, kw_only=True):
    """This process was silent for too long: others have what it had, and it joins anew."""

    topic: ClassVar[str] = "member.expelled"
    level: ClassVar[Level] = "warning"


class LanesRecovered(Event, kw_only=True):
    """What a process left behind that is gone, or this one in an earlier run, is sent by others.

    Args:
        count: How many messages.
    """

    topic: ClassVar[str] = "lane.recovered"
    level: ClassVar[Level] = "info"
    measures: ClassVar[tuple[str, ...]] = ("count",)

    count: int


class DeliveryBehind(Event, kw_only=True):
    """What is to be sent or handled now has waited for more than ten seconds.

    Args:
        messages: Messages that are open and due.
        updates: Updates that are open, also those that are being handled.
        oldest: Seconds for which the oldest of both has waited.
    """

    topic: ClassVar[str] = "delivery.behind"
    level: ClassVar[Level] = "warning"
    measures: ClassVar[tuple[str, ...]] = ("oldest",)

    messages: int
    updates: int
    oldest: float


class DeliveryCaughtUp(Event, kw_only=True):
    """What is to be sent or handled waits for no more than five seconds again.

    Args:
        duration: Seconds since this process has said that it was behind.
    """

    topic: ClassVar[str] = "delivery.caught_up"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class DeliveryUnsafe(Event, kw_only=True):
    """A crash of the server may lose what it has committed: updates and messages are lost with it.

    Args:
        settings: The settings of the server that say so.
    """

    topic: ClassVar[str] = "delivery.unsafe"
    level: ClassVar[Level] = "warning"

    settings: tuple[str, ...]
