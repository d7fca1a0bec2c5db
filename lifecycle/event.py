"""What an event is: a frozen record that describes itself to observers."""

import time
from typing import Any, ClassVar, Literal, dataclass_transform

import msgspec

from lifecycle.correlation import Correlation, current_correlation

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
