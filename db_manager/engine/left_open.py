"""Warns of an engine that is garbage-collected without having been disposed."""

import warnings
from weakref import finalize

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class _Watch:
    """What the finalizer knows of the engine, without a reference to it."""

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

    There is no warning for an engine that was ever disposed, nor at the end of the process. Only
    the events for connecting and disposing have listeners, so units do not become slower.

    Args:
        engine: The engine, before its first connection.
    """
    sync = engine.sync_engine
    watch = _Watch(sync.url.render_as_string(hide_password=True))
    finalizer = finalize(sync, watch.engine_is_gone)
    finalizer.atexit = False  # the process ends, and its connections with it
    event.listen(sync, "connect", watch.note_connect)
    # With any listener on an engine SQLAlchemy dispatches events at each step of each statement.
    # This one is called without that; listeners of the class `Engine` must still be called.
    asked = "_has_events" in vars(sync)
    event.listen(sync, "engine_disposed", lambda _engine: finalizer.detach())
    if not asked:
        vars(sync).pop("_has_events", None)  # guarded by a test
