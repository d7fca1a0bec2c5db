"""The warning for an engine that is dropped while its connections are open."""

import warnings
from weakref import finalize

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class _Watch:
    """What the finalizer may know of the engine: nothing in it leads back there."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._connected = False

    def note_connect(self, _connection: object, _record: object) -> None:
        self._connected = True

    def engine_is_gone(self) -> None:
        if self._connected:
            warnings.warn(
                f"the engine of {self._place} was dropped with its connections open; "
                "call `await engine.dispose()` first",
                ResourceWarning,
                stacklevel=2,
            )


def warn_if_left_open(engine: AsyncEngine) -> None:
    """Give a `ResourceWarning` if *engine* is garbage-collected after it connected.

    Nothing is said of an engine that was disposed once, nor at the end of the process. Only
    connecting and disposing are listened for, so a unit costs the same.

    Args:
        engine: The engine, before its first connection.
    """
    sync = engine.sync_engine
    watch = _Watch(sync.url.render_as_string(hide_password=True))
    finalizer = finalize(sync, watch.engine_is_gone)
    finalizer.atexit = False  # the process ends, and its connections with it
    event.listen(sync, "connect", watch.note_connect)
    # Any listener of an engine makes SQLAlchemy ask its events at each step of each statement.
    # This one is called all the same; listeners of the class `Engine` must still be asked.
    asked = "_has_events" in vars(sync)
    event.listen(sync, "engine_disposed", lambda _engine: finalizer.detach())
    if not asked:
        vars(sync).pop("_has_events", None)  # guarded by a test
