"""A recorder of events, and assertions about what must and must not happen.

In pytest it is the fixture `events` (`observability.testing.pytest_plugin`). The names below are
imported at their first use, because every run of pytest loads the plugin.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from observability.testing.recorder import EventRecorder, Story, record
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__, {"recorder": ("EventRecorder", "Story", "record")}
    )

__all__ = ["EventRecorder", "Story", "record"]
