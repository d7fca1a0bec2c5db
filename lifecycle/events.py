"""What an event is, what it is correlated with, and every event of the lifecycle itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Final, Literal, dataclass_transform

import msgspec


class Correlation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where an event comes from: carried by a context variable into events and log lines.

    Args:
        update_id: Telegram's id of the update that is being handled.
        update_type: Its type, as `message` or `callback_query`.
        chat_type: `private`, `group`, … of the chat it came from.
        handler: Qualified name of the handler that was called.
        plugin: Name of the plugin that the handler, hook or task belongs to.
        unit: Number of the open unit of work.
    """

    update_id: int | None = None
    update_type: str | None = None
    chat_type: str | None = None
    handler: str | None = None
    plugin: str | None = None
    unit: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, without the fields that are not."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}


class Scope:
    """A time in which a correlation holds.

    Args:
        correlation: What holds.
        outer: What holds when it is over; by default the scope itself, which is never over.
    """

    __slots__ = ("correlation", "outer", "over")

    def __init__(self, correlation: Correlation, outer: "Scope | None" = None) -> None:
        self.correlation = correlation
        self.outer = self if outer is None else outer
        self.over = False


_NOWHERE: Final = Scope(Correlation())
_scope: ContextVar[Scope] = ContextVar("lifecycle_correlation", default=_NOWHERE)


def current_correlation() -> Correlation:
    """Return the correlation of the running task; what is over holds no longer."""
    scope = _scope.get()
    while scope.over:
        scope = scope.outer
    return scope.correlation


def set_correlation(correlation: Correlation) -> Scope:
    """Let *correlation* hold from here on, instead of the present one.

    Args:
        correlation: What holds.

    Returns:
        What `pop_correlation` needs to end it.
    """
    outer = _scope.get()
    while outer.over:
        outer = outer.outer
    scope = Scope(correlation, outer)
    _scope.set(scope)
    return scope


def push_correlation(**fields: Any) -> Scope:
    """Add *fields* to the correlation from here on; `correlate` is the same for a block.

    Args:
        **fields: Fields of `Correlation`.

    Returns:
        What `pop_correlation` needs to take them away again.
    """
    return set_correlation(msgspec.structs.replace(current_correlation(), **fields))


def pop_correlation(scope: Scope) -> None:
    """Go back to what held before *scope*; tasks that were started in it keep it.

    Args:
        scope: What `set_correlation` or `push_correlation` returned.
    """
    if _scope.get() is scope:
        _scope.set(scope.outer)


def end_correlation(scope: Scope) -> None:
    """End *scope* for every task, in whatever task and order: what comes later is not part of it.

    Args:
        scope: What `set_correlation` or `push_correlation` returned.
    """
    scope.over = True
    while scope.outer.over:
        scope.outer = scope.outer.outer
    pop_correlation(scope)


@contextmanager
def correlate(**fields: Any) -> Iterator[Correlation]:
    """Add *fields* to the correlation of everything that happens inside the block.

    Args:
        **fields: Fields of `Correlation`.

    Yields:
        The correlation that holds inside the block.
    """
    scope = push_correlation(**fields)
    try:
        yield scope.correlation
    finally:
        pop_correlation(scope)


#: Every event class by its topic; filled as the classes are defined.
EVENT_TYPES: dict[str, type["Event"]] = {}

Level = Literal["debug", "info", "warning", "error"]


# No metaclass says `kw_only` for the subclasses: Python 3.11 makes such a call two times as slow.
# No event can be part of a reference cycle: it holds plain values only.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened: a frozen record of plain JSON-safe values.

    A subclass says its `topic`, and describes itself for observers that know no event by name:
    `level` for logs, `labels` (fields with few values, never user data) and `measures` (numeric
    fields, in seconds or counts) for metrics.

    Args:
        at: Wall clock when it happened, seconds since the epoch.
        correlation: The update, handler, plugin and unit it belongs to.
    """

    topic: ClassVar[str] = ""
    level: ClassVar[Level] = "info"
    labels: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()

    at: float = msgspec.field(default_factory=time.time)
    correlation: Correlation = msgspec.field(default_factory=current_correlation)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class under its topic.

        Raises:
            TypeError: Two event classes claim one topic.
        """
        super().__init_subclass__(**kwargs)
        topic = cls.__dict__.get("topic")
        if not isinstance(topic, str) or not topic:
            return  # a base class of other events, or one whose topic is a field
        known = EVENT_TYPES.get(topic)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise TypeError(f"topic {topic!r} of {cls.__qualname__} belongs to {known!r} already")
        EVENT_TYPES[topic] = cls

    def as_dict(self) -> dict[str, Any]:
        """Return topic, time, correlation and own fields as plain JSON-safe values.

        An own field wins over a field of the correlation with the same name.
        """
        own = msgspec.to_builtins(self)
        own.pop("correlation")
        return {"topic": self.topic, "at": own.pop("at"), **self.correlation.as_dict(), **own}


Hook = Literal["load", "start", "stop", "unload"]


class PluginEvent(Event, kw_only=True):
    """Base of the events about one plugin.

    Args:
        plugin: Name of the plugin.
    """

    labels: ClassVar[tuple[str, ...]] = ("plugin",)

    plugin: str


class PluginLoading(PluginEvent, kw_only=True):
    """The load hook is about to run."""

    topic: ClassVar[str] = "plugin.loading"
    level: ClassVar[Level] = "debug"


class PluginLoaded(PluginEvent, kw_only=True):
    """The load hook ended well.

    Args:
        duration: Seconds the hook took.
    """

    topic: ClassVar[str] = "plugin.loaded"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class PluginStarting(PluginEvent, kw_only=True):
    """The start hook is about to run."""

    topic: ClassVar[str] = "plugin.starting"
    level: ClassVar[Level] = "debug"


class PluginStarted(PluginEvent, kw_only=True):
    """The start hook ended well.

    Args:
        duration: Seconds the hook took.
    """

    topic: ClassVar[str] = "plugin.started"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class PluginStopping(PluginEvent, kw_only=True):
    """The stop hook is about to run."""

    topic: ClassVar[str] = "plugin.stopping"
    level: ClassVar[Level] = "debug"


class PluginStopped(PluginEvent, kw_only=True):
    """The stop hook ended well, and what start took is given back.

    Args:
        duration: Seconds the hook and the clean-up took.
    """

    topic: ClassVar[str] = "plugin.stopped"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class PluginUnloading(PluginEvent, kw_only=True):
    """The unload hook is about to run."""

    topic: ClassVar[str] = "plugin.unloading"
    level: ClassVar[Level] = "debug"


class PluginUnloaded(PluginEvent, kw_only=True):
    """The unload hook ended well, and what load took is given back.

    Args:
        duration: Seconds the hook and the clean-up took.
    """

    topic: ClassVar[str] = "plugin.unloaded"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class PluginFailed(PluginEvent, kw_only=True):
    """A hook raised, hung past its deadline or was cancelled; the plugin holds nothing now.

    Args:
        hook: The hook that failed.
        error: What went wrong, in one line; with its text when *hook* is `load` or `start`.
        cleanup_errors: What went wrong while giving back, a line each, without their texts.
        duration: Seconds from the begin of the hook to the end of the clean-up.
    """

    topic: ClassVar[str] = "plugin.failed"
    level: ClassVar[Level] = "error"
    labels: ClassVar[tuple[str, ...]] = ("plugin", "hook")
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    hook: Hook
    error: str
    cleanup_errors: tuple[str, ...] = ()
    duration: float


class PluginDegraded(PluginEvent, kw_only=True):
    """A started plugin lost something it needs.

    Args:
        reason: What it lost, in one line.
    """

    topic: ClassVar[str] = "plugin.degraded"
    level: ClassVar[Level] = "warning"

    reason: str


class PluginRecovered(PluginEvent, kw_only=True):
    """A degraded plugin has again what it needs.

    Args:
        duration: Seconds it was degraded.
    """

    topic: ClassVar[str] = "plugin.recovered"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    duration: float


class ServiceProvided(PluginEvent, kw_only=True):
    """A plugin provides a service.

    Args:
        service: Full name, `plugin:name`.
    """

    topic: ClassVar[str] = "service.provided"
    level: ClassVar[Level] = "debug"

    service: str


class ServiceWithdrawn(PluginEvent, kw_only=True):
    """A service is gone.

    Args:
        service: Full name, `plugin:name`.
    """

    topic: ClassVar[str] = "service.withdrawn"
    level: ClassVar[Level] = "debug"

    service: str


class AppStarted(Event, kw_only=True):
    """Every plugin is started.

    Args:
        plugins: Names in the order they started.
        duration: Seconds from the command to here.
    """

    topic: ClassVar[str] = "app.started"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    plugins: tuple[str, ...]
    duration: float


class AppDrained(Event, kw_only=True):
    """The updates in flight at a stop have ended.

    Args:
        waited: Number of updates that were in flight.
        cancelled: The ones that did not end before the deadline, as `update 7 (handler)`.
        duration: Seconds it took.
    """

    topic: ClassVar[str] = "app.drained"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    waited: int
    cancelled: tuple[str, ...] = ()
    duration: float


class AppStopping(Event, kw_only=True):
    """The application was told to stop every plugin."""

    topic: ClassVar[str] = "app.stopping"


class AppStopped(Event, kw_only=True):
    """Every plugin was stopped, or its stop was tried.

    Args:
        errors: What went wrong, a line each, without texts; empty after a good stop.
        duration: Seconds from `app.stopping`.
    """

    topic: ClassVar[str] = "app.stopped"
    measures: ClassVar[tuple[str, ...]] = ("duration",)

    errors: tuple[str, ...] = ()
    duration: float


class AppCrashed(Event, kw_only=True):
    """The previous run has no end: its process died.

    Args:
        run: Number of the dead run.
        last_topic: Topic of its last event; empty when it recorded none.
        last_plugin: The plugin that event was about, when it was about one.
        last_seq: Sequence number of that event.
        last_at: When it happened, seconds since the epoch.
    """

    topic: ClassVar[str] = "app.crashed"
    level: ClassVar[Level] = "error"

    run: int
    last_topic: str = ""
    last_plugin: str = ""
    last_seq: int = 0
    last_at: float = 0.0


class SubscriberFailed(Event, kw_only=True):
    """A subscriber raised; nobody else noticed.

    Args:
        subscriber: Qualified name of the handler.
        failed_topic: Topic of the event it was called with.
        error: What it raised, in one line, without its text.
    """

    topic: ClassVar[str] = "subscriber.failed"
    level: ClassVar[Level] = "error"
    labels: ClassVar[tuple[str, ...]] = ("subscriber",)

    subscriber: str
    failed_topic: str
    error: str


class SubscriberOverflowed(Event, kw_only=True):
    """A subscriber's queue is full: events for it are dropped until it catches up.

    Args:
        subscriber: Qualified name of the handler.
        dropped: Events dropped so far, this one included.
    """

    topic: ClassVar[str] = "subscriber.overflowed"
    level: ClassVar[Level] = "warning"
    labels: ClassVar[tuple[str, ...]] = ("subscriber",)

    subscriber: str
    dropped: int
