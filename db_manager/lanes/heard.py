"""Who listens to the sessions of units: asked once for all of them, not made for each.

SQLAlchemy makes for each session a record of its listeners, and an entry in it for each event that
comes: a twentieth of the calls of a unit that adds one object (docs/performance.md).
"""

from collections.abc import Collection
from functools import cache
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session

#: Events that concern the begin and the end of a session's transaction, or its statements.
ASKED: Final = (
    "do_orm_execute",
    "after_begin",
    "before_commit",
    "after_commit",
    "after_transaction_create",
    "after_transaction_end",
)
_Record: Any = type(Session().dispatch)


class SharedRecord(_Record):  # type: ignore[misc]  # SQLAlchemy makes the class when it is imported
    """The record of all sessions of a class that have no listeners of their own."""

    #: The listeners of the class to each of the events in `ASKED`, now and later.
    asked: tuple[Collection[Any], ...]

    def _listen(self, event_key: Any, **options: Any) -> None:
        """Give the session a record of its own, and put the listener there."""
        session = event_key.dispatch_target
        del session.dispatch
        session.dispatch._listen(event_key, **options)  # noqa: SLF001 -- guarded by a test


@cache
def shared_record(kind: type[Session]) -> SharedRecord | None:
    """Return what sessions of *kind* may have as their `dispatch`.

    Returns:
        The record; None if sessions need their own, because SQLAlchemy has changed.
    """
    try:
        record = SharedRecord(kind.dispatch, kind)
        for name in record._event_names:  # noqa: SLF001 -- guarded by a test
            getattr(record, name)  # made at the first use
        record.asked = tuple(getattr(record, name).parent_listeners for name in ASKED)
    except (AttributeError, TypeError):
        return None
    one, other = kind(), kind()
    one.dispatch = other.dispatch = record
    event.listen(one, ASKED[0], print)
    return None if one.dispatch is record or any(record.asked) else record
