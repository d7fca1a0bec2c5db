"""Every event of the lifecycle itself: plugins, services, the application, subscribers."""

from typing import ClassVar, Literal

from lifecycle.event import Event, Level

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
        duration: Seconds from the start of the hook to the end of the clean-up.
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
