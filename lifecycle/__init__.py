"""The event-sourced runtime that loads, starts, stops and unloads plugins.

The names below are imported when they are first used: a tool that reads a journal never pays for
asyncio.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from lifecycle.application import Application
    from lifecycle.bus import EventBus, Subscription
    from lifecycle.correlation import Correlation, correlate, current_correlation
    from lifecycle.errors import (
        ConfigError,
        ContextClosedError,
        HookTimeoutError,
        IllegalHistoryError,
        JournalCorruptError,
        JournalError,
        JournalLockedError,
        LifecycleError,
        PluginFailedError,
        ServiceNotFoundError,
        TransitionNotAllowedError,
        WiringError,
    )
    from lifecycle.event import Event
    from lifecycle.events import (
        AppCrashed,
        AppDrained,
        AppStarted,
        AppStopped,
        AppStopping,
        PluginDegraded,
        PluginEvent,
        PluginFailed,
        PluginLoaded,
        PluginLoading,
        PluginRecovered,
        PluginStarted,
        PluginStarting,
        PluginStopped,
        PluginStopping,
        PluginUnloaded,
        PluginUnloading,
        ServiceProvided,
        ServiceWithdrawn,
        SubscriberFailed,
        SubscriberOverflowed,
    )
    from lifecycle.journal import Journal, JournalEntry, MemoryJournal, SqliteJournal
    from lifecycle.plugins.context import PluginContext
    from lifecycle.plugins.machine import State, to_mermaid
    from lifecycle.plugins.plugin import Health, Plugin
    from lifecycle.plugins.replay import replay
    from lifecycle.plugins.services import ServiceRegistry
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__,
        {
            "application": ("Application",),
            "bus": ("EventBus", "Subscription"),
            "correlation": (
                "Correlation",
                "correlate",
                "current_correlation",
            ),
            "errors": (
                "ConfigError",
                "ContextClosedError",
                "HookTimeoutError",
                "IllegalHistoryError",
                "JournalCorruptError",
                "JournalError",
                "JournalLockedError",
                "LifecycleError",
                "PluginFailedError",
                "ServiceNotFoundError",
                "TransitionNotAllowedError",
                "WiringError",
            ),
            "event": ("Event",),
            "events": (
                "AppCrashed",
                "AppDrained",
                "AppStarted",
                "AppStopped",
                "AppStopping",
                "PluginDegraded",
                "PluginEvent",
                "PluginFailed",
                "PluginLoaded",
                "PluginLoading",
                "PluginRecovered",
                "PluginStarted",
                "PluginStarting",
                "PluginStopped",
                "PluginStopping",
                "PluginUnloaded",
                "PluginUnloading",
                "ServiceProvided",
                "ServiceWithdrawn",
                "SubscriberFailed",
                "SubscriberOverflowed",
            ),
            "journal": (
                "Journal",
                "JournalEntry",
                "MemoryJournal",
                "SqliteJournal",
            ),
            "plugins.context": ("PluginContext",),
            "plugins.machine": (
                "State",
                "to_mermaid",
            ),
            "plugins.plugin": (
                "Health",
                "Plugin",
            ),
            "plugins.replay": ("replay",),
            "plugins.services": ("ServiceRegistry",),
        },
    )

__all__ = [
    "AppCrashed",
    "AppDrained",
    "AppStarted",
    "AppStopped",
    "AppStopping",
    "Application",
    "ConfigError",
    "ContextClosedError",
    "Correlation",
    "Event",
    "EventBus",
    "Health",
    "HookTimeoutError",
    "IllegalHistoryError",
    "Journal",
    "JournalCorruptError",
    "JournalEntry",
    "JournalError",
    "JournalLockedError",
    "LifecycleError",
    "MemoryJournal",
    "Plugin",
    "PluginContext",
    "PluginDegraded",
    "PluginEvent",
    "PluginFailed",
    "PluginFailedError",
    "PluginLoaded",
    "PluginLoading",
    "PluginRecovered",
    "PluginStarted",
    "PluginStarting",
    "PluginStopped",
    "PluginStopping",
    "PluginUnloaded",
    "PluginUnloading",
    "ServiceNotFoundError",
    "ServiceProvided",
    "ServiceRegistry",
    "ServiceWithdrawn",
    "SqliteJournal",
    "State",
    "SubscriberFailed",
    "SubscriberOverflowed",
    "Subscription",
    "TransitionNotAllowedError",
    "WiringError",
    "correlate",
    "current_correlation",
    "replay",
    "to_mermaid",
]
