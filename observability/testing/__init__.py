"""A recorder of events, and assertions about what must and must not happen.

In pytest it is the fixture `events` (`observability.testing.pytest_plugin`). The names below are
imported at their first use, because every run of pytest loads the plugin.
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
