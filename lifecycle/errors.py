"""Every error of the lifecycle runtime: objects first, text second."""

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Final


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that *name* may have meant: ` (did you mean 'x'?)`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural ends in s: `1 update`, `2 updates`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


#: Services that no plugin provides, and what to do when they are missing.
_OF_A_BOT: Final = frozenset({"aiogram:dispatcher", "aiogram:bot", "aiogram:bots"})
_NO_BOT: Final = (
    "the application was started without a bot. Start it with run_polling(app, dispatcher, bot), "
    "or call attach(app, dispatcher) before it starts; in a test write `await telegram.run(app)` "
    "in the place of `app.start()` or `sandbox.start(...)`. A plugin that works without a bot too "
    "asks with services.get"
)


class LifecycleError(Exception):
    """Base of every error that the lifecycle runtime raises itself."""


class WiringError(LifecycleError, ValueError):
    """The plugins, their dependencies or the configuration do not fit together.

    Raised before any hook runs; the message names the culprit and the fix.
    """


class ConfigError(WiringError):
    """A key of config.toml or of the environment is unknown or has a wrong value."""


class ServiceNotFoundError(LifecycleError, KeyError):
    """Nobody provides the service that was asked for.

    Args:
        name: The service, as `plugin:name`.
        available: The services that are there.
    """

    def __init__(self, name: str, available: Iterable[str]) -> None:
        self.name = name
        self.available = tuple(sorted(available))
        super().__init__(name, self.available)

    def __str__(self) -> str:
        if self.name in _OF_A_BOT and "aiogram:dispatcher" not in self.available:
            return f"no service {self.name!r}: {_NO_BOT}"
        there = ", ".join(self.available) or "none yet"
        return (
            f"no service {self.name!r}; there are: {there}. Name the plugin that provides it in "
            f"`requires`, and list it in [app] plugins"
        )


class TransitionNotAllowedError(LifecycleError):
    """A command was given that the plugin's state does not allow."""

    def __init__(self, plugin: str, state: str, trigger: str) -> None:
        self.plugin = plugin
        self.state = state
        self.trigger = trigger
        super().__init__(plugin, state, trigger)

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} is {self.state}: {self.trigger!r} is not allowed there"


class IllegalHistoryError(LifecycleError):
    """A history of events that no run can have produced.

    Args:
        seq: Sequence number of the first event that does not fit.
        reason: What is wrong with it.
    """

    def __init__(self, seq: int, reason: str) -> None:
        self.seq = seq
        self.reason = reason
        super().__init__(seq, reason)

    def __str__(self) -> str:
        return f"illegal history at event {self.seq}: {self.reason}"


class PluginFailedError(LifecycleError):
    """A hook of a plugin failed; what the plugin had taken was given back.

    The hook's own error is `__cause__`; errors of the clean-up are notes.

    Args:
        plugin: Name of the plugin.
        hook: `load`, `start`, `stop` or `unload`.
        error: What the hook raised.
    """

    def __init__(self, plugin: str, hook: str, error: BaseException) -> None:
        self.plugin = plugin
        self.hook = hook
        self.error = error
        super().__init__(plugin, hook, error)

    def __str__(self) -> str:
        text = str(self.error)
        what = type(self.error).__name__ + (f": {text}" if text else "")
        return f"plugin {self.plugin!r} failed in {self.hook}: {what}"


class HookTimeoutError(LifecycleError, TimeoutError):
    """A hook did not end before its deadline.

    Args:
        deadline: Seconds the hook was given.
        abandoned: True when the hook also ignored its cancellation and was left behind.
    """

    def __init__(self, deadline: float, *, abandoned: bool) -> None:
        self.deadline = deadline
        self.abandoned = abandoned
        super().__init__(deadline)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), abandoned=self.abandoned), self.args, vars(self)

    def __str__(self) -> str:
        tail = " and ignored its cancellation" if self.abandoned else ""
        return f"did not end within {self.deadline:g} s{tail}"


class ContextClosedError(LifecycleError):
    """A plugin used its context after the context was closed."""


class JournalError(LifecycleError):
    """The journal cannot be read or written."""


class JournalLockedError(JournalError):
    """Another process, or another application of this one, writes this journal."""


class JournalCorruptError(JournalError):
    """The journal was changed behind our back."""
