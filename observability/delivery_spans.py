"""OpenTelemetry spans of messages and updates, each made from the event that ends it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from observability.vocabulary import (
    MESSAGE_ENDS,
    UPDATE_ENDS,
    Message,
    UpdateTaken,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

#: Fields that become attributes, as far as an event has them.
_FIELDS: Final = ("message", "bot_id", "method", "update_id", "attempts")


def delivery_spans(tracer: "Tracer") -> Mapping[str, Callable[[Any], None]]:
    """Return what makes the span of a message or an update, by the topics that end one.

    Args:
        tracer: Makes it: a child of what is current for the publisher.
    """

    def of_message(event: Message) -> None:
        _make(tracer, "db_manager.message", event)

    def of_update(event: UpdateTaken) -> None:
        _make(tracer, "db_manager.update", event)

    return {**dict.fromkeys(MESSAGE_ENDS, of_message), **dict.fromkeys(UPDATE_ENDS, of_update)}


def _make(tracer: "Tracer", name: str, event: Any) -> None:
    """Make a span that begins when the message was due, or the update stored, if that is known."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 -- an extra

    known = {**event.correlation.as_dict()}
    known |= {field: getattr(event, field) for field in _FIELDS if hasattr(event, field)}
    began = event.at - getattr(event, "wait", 0.0)
    span = tracer.start_span(
        name,
        start_time=int(began * 1e9),
        attributes={f"db_manager.{field}": value for field, value in known.items()},
    )
    if event.topic not in {MESSAGE_ENDS[0], UPDATE_ENDS[0]}:
        error = getattr(event, "error", "") or event.topic
        span.set_status(Status(StatusCode.ERROR, error))
        span.set_attribute("error.type", error.partition(":")[0])
    span.end(int(event.at * 1e9))
