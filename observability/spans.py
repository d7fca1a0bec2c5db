"""OpenTelemetry spans: a unit of work with its statements, and the transitions of plugins."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from msgspec.structs import astuple

from lifecycle.bus import EventBus
from lifecycle.correlation import Correlation
from observability import vocabulary
from observability.delivery_spans import delivery_spans
from observability.vocabulary import (
    Happened,
    Migrated,
    Migrating,
    MigrationFailed,
    Statement,
    UnitBegun,
    UnitClosed,
    UnitLeft,
    UnitRetried,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

#: Open spans of units; beyond that the oldest are ended, as their end was probably missed.
MOST_OPEN: Final = 10_000

#: Characters of a statement that a span carries.
LONGEST_STATEMENT: Final = 4000

#: OpenTelemetry's names of databases that SQLAlchemy names differently.
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
#: Attributes of a span: for fields of a correlation, and for those of an event, which win.
_WHERE: Final = tuple(f"db_manager.{name}" for name in Correlation.__struct_fields__)
_OWN: Final = tuple((name, f"db_manager.{name}") for name in ("plugin", "unit", "database"))
_HOOKS: Final = {"loaded": "load", "started": "start", "stopped": "stop", "unloaded": "unload"}


class Spans:
    """The spans of one bus; `close`, or leaving it as a context manager, ends them.

    Made by `attach`.
    """

    def __init__(self, bus: EventBus, tracer: "Tracer", *, statements: bool) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 -- an extra

        self._tracer = tracer
        self._trace = trace
        self._context = context
        self._open: dict[int, _Open] = {}
        #: When the migration of a plugin's tables began, seconds since the epoch.
        self._begun: dict[tuple[str, str], float] = {}
        handlers: dict[str, Callable[[Any], None]] = {
            vocabulary.UNIT_BEGIN: self._begin,
            vocabulary.UNIT_CLOSE: self._close,
            vocabulary.UNIT_LEAVE: self._leave,
            vocabulary.UNIT_RETRY: self._retry,
            vocabulary.MIGRATING: self._migrating,
            vocabulary.MIGRATED: self._migrated,
            vocabulary.MIGRATION_FAILED: self._migrated,
            "plugin.*": self._moved,
            "app.*": self._moved,
            **delivery_spans(tracer),
        }
        if statements:
            handlers[vocabulary.STATEMENT] = self._statement
        self._subscriptions = [bus.subscribe(topic, handlers[topic]) for topic in handlers]

    @property
    def open(self) -> int:
        """Number of open spans of units."""
        return len(self._open)

    def close(self) -> None:
        """Make no more spans, and end those of open units."""
        for subscription in self._subscriptions:
            subscription.cancel()
        self._subscriptions.clear()
        while self._open:
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- a unit ---------------------------------------------------------------------------

    def _begin(self, event: UnitBegun) -> None:
        outside = self._context.get_current()
        span = self._tracer.start_span(
            "db_manager.uow",
            context=outside,
            start_time=_nanoseconds(event.at),
            attributes={
                **_where(event),
                "db_manager.read_only": event.read_only,
                "db_manager.retries": event.attempt - 1,
            },
        )
        if len(self._open) >= MOST_OPEN:
            self._abandon()
        inside = self._trace.set_span_in_context(span, outside)
        self._open[event.unit] = _Open(span, outside, inside, event.at)
        # Spans that other libraries make inside the block become children of the unit. This works
        # because a plain handler runs in the context of its publisher: the unit's task.
        self._context.attach(inside)

    def _close(self, event: UnitClosed) -> None:
        opened = self._open.pop(event.unit, None)
        if opened is None:
            return  # it began before we subscribed
        span = opened.span
        here = self._context.get_current()
        # Another context may have the span, too: that of the block with more in it.
        if here is opened.inside or self._trace.get_current_span(here) is span:
            # Not `detach`: its token is refused in a task other than that of `attach`.
            self._context.attach(opened.outside)
        if span.is_recording():
            span.set_attributes(
                {
                    "db_manager.outcome": event.outcome,
                    "db_manager.cause": event.cause,
                    "db_manager.statements": event.statements,
                    "db_manager.database_time": event.database_time,
                    "db_manager.waited": event.waited,
                }
            )
            if event.outcome == "outcome_unknown" or event.cause in {"error", "cancelled"}:
                self._fail(span, event.error)
        span.end(_nanoseconds(opened.at + event.duration))

    def _abandon(self) -> None:
        """End the oldest open span: without an end it would stay in memory, unexported."""
        opened = self._open.pop(next(iter(self._open)))
        opened.span.set_attributes({"db_manager.abandoned": True})
        opened.span.end()

    def _statement(self, event: Statement) -> None:
        if not self._trace.get_current_span().is_recording():
            return  # the unit was not sampled
        attributes: dict[str, str | int] = {
            "db.system.name": _SYSTEMS.get(event.system, event.system),
            "db.namespace": event.namespace,
            "db.operation.name": event.operation,
            "db.query.text": event.statement[:LONGEST_STATEMENT],
            "db_manager.unit": event.unit,
        }
        if event.database:
            attributes["db_manager.database"] = event.database
        if event.server:
            attributes["server.address"] = event.server
        if event.port is not None:
            attributes["server.port"] = event.port
        span = self._tracer.start_span(
            event.operation or "statement",
            kind=self._trace.SpanKind.CLIENT,
            start_time=_nanoseconds(event.at - event.duration),
            attributes=attributes,
        )
        if event.error:
            self._fail(span, event.error)
        span.end(_nanoseconds(event.at))

    def _leave(self, event: UnitLeft) -> None:
        """Make the span of a unit that was a part of another one: its block, beside statements."""
        if not self._trace.get_current_span().is_recording():
            return
        span = self._tracer.start_span(
            "db_manager.uow.inner",
            start_time=_nanoseconds(event.at - event.duration),
            attributes={
                "db_manager.unit": event.unit,
                "db_manager.mode": event.mode,
                "db_manager.outcome": event.outcome,
            },
        )
        if event.error:
            self._fail(span, event.error)
        span.end(_nanoseconds(event.at))

    def _retry(self, event: UnitRetried) -> None:
        self._trace.get_current_span().add_event(
            event.topic,
            {
                "db_manager.attempt": event.attempt,
                "db_manager.error": event.error,
                "db_manager.sqlstate": event.sqlstate,
                "db_manager.wait": event.wait,
            },
        )

    # -- a migration ----------------------------------------------------------------------

    def _migrating(self, event: Migrating) -> None:
        self._begun[event.database, event.plugin] = event.at

    def _migrated(self, event: Migrated | MigrationFailed) -> None:
        begun = self._begun.pop((event.database, event.plugin), event.at)
        span = self._tracer.start_span(
            "db_manager.migration",
            start_time=_nanoseconds(begun),
            attributes={**_where(event), "db_manager.revision": event.revision},
        )
        if error := getattr(event, "error", ""):
            self._fail(span, error)
        span.end(_nanoseconds(event.at))

    # -- the lifecycle --------------------------------------------------------------------

    def _moved(self, event: Any) -> None:
        """Make the span of a transition, from the event that ends it."""
        if "duration" not in event.measures:
            return
        subject, _, happened = event.topic.rpartition(".")
        name = getattr(event, "hook", None) or (_HOOKS.get(happened) if subject == "plugin" else "")
        span = self._tracer.start_span(
            f"{subject}.{name}" if name else event.topic,
            start_time=_nanoseconds(event.at - event.duration),
            attributes=_where(event),
        )
        errors = getattr(event, "error", "") or "; ".join(getattr(event, "errors", ()))
        if errors:
            self._fail(span, errors)
        span.end(_nanoseconds(event.at))

    def _fail(self, span: "Span", error: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        span.set_attribute("error.type", error.partition(":")[0])


def attach(
    bus: EventBus,
    *,
    tracer_provider: "TracerProvider | None" = None,
    statements: bool = True,
) -> Spans:
    """Turn units of work and transitions of plugins into OpenTelemetry spans.

    A unit is the span `db_manager.uow`: a child of the span that was current when it began, current
    inside its block, and the parent of the spans of its statements.

    Args:
        bus: The bus.
        tracer_provider: Where spans are sent; by default OpenTelemetry's global provider.
        statements: Make a span for each statement, too.

    Returns:
        The spans; close them to detach.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ImportError(
            "traces need opentelemetry-api: install db-manager[otel]", name=error.name
        ) from error
    tracer = trace.get_tracer("db_manager", tracer_provider=tracer_provider)
    return Spans(bus, tracer, statements=statements)


class _Open(NamedTuple):
    """The span of a unit that is open."""

    span: "Span"
    #: The context around the unit, and that of its block.
    outside: "Context"
    inside: "Context"
    at: float


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _where(event: Happened) -> dict[str, Any]:
    """Return the correlation of an event as attributes of a span."""
    named = zip(_WHERE, astuple(event.correlation), strict=True)
    known = {name: value for name, value in named if value is not None}
    for name, attribute in _OWN:
        if (value := getattr(event, name, "")) != "":
            known[attribute] = value
    return known
