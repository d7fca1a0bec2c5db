"""A recorder of events that says what must and what must not happen, in one line.

With pytest it is the fixture `events` (`observability.testing.pytest_plugin`). The names below are
imported when they are first used: every run of pytest loads the plugin, and few use it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from observability.testing.recorder import EventRecorder, Story, record

__all__ = ["EventRecorder", "Story", "record"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.recorder"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
