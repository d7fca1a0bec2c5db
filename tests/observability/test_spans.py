"""Spans: what a unit looks like in a trace, and what a broken exporter cannot do."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from threading import Event as Flag
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from db_manager.errors import DatabaseUnavailableError, UnitOfWorkTaskError
from db_manager.events import Migrated, Migrating, MigrationFailed, UnitBegun
from db_manager.plugin import DatabasePlugin
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability import spans
from observability.testing import EventRecorder


class Memory:
    """The spans that ended, by name, in the order they did."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All of them."""
        return self.exporter.get_finished_spans()

    def only(self, name: str) -> ReadableSpan:
        """Return the one span with a name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def names(self) -> list[str]:
        """Return the names."""
        return [span.name for span in self.spans]


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Keeps spans in memory."""
    memory = Memory()
    yield memory
    memory.provider.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of the parent of a span."""
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    """Return the id of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def factory_of(application: Application) -> Any:
    """Return what makes units."""
    return application.services["db_manager:uow_factory"]


async def test_a_unit_is_left_also_if_its_block_put_more_into_the_context(
    application: Application, memory: Memory
) -> None:
    """Baggage that the block attached, and kept, does not keep the unit's span current."""
    tracer = memory.provider.get_tracer("bot")
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            with tracer.start_as_current_span("update") as update:
                async with factory_of(application)():
                    context.attach(baggage.set_baggage("tenant", "canary"))
                assert trace.get_current_span() is update


async def test_a_unit_is_a_span_in_the_trace_of_its_update(
    application: Application, sqlite_database: URL, memory: Memory
) -> None:
    """The unit is a child of the update's span, and its statements are children of the unit."""
    tracer = memory.provider.get_tracer("bot")
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            memory.exporter.clear()
            with tracer.start_as_current_span("update") as update:
                with correlate(plugin="notes", handler="notes.add", update_id=7):
                    async with factory_of(application)() as uow:
                        await uow.session.execute(text("SELECT :secret"), {"secret": "canary"})
                        with tracer.start_as_current_span("of the user"):
                            await uow.session.execute(text("SELECT 2"))
                assert trace.get_current_span() is update
            assert memory.names() == ["SELECT", "SELECT", "of the user", "db_manager.uow", "update"]
            first, second, block, unit, whole = memory.spans
    assert parent_of(unit) == id_of(whole)
    assert parent_of(first) == parent_of(block) == id_of(unit)
    assert parent_of(second) == id_of(block)
    assert (unit.kind, first.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    attributes = dict(unit.attributes or {})
    assert attributes.pop("db_manager.database_time") is not None
    assert attributes.pop("db_manager.waited") is not None
    assert attributes.pop("db_manager.unit") == uow.number
    assert attributes == {
        "db_manager.plugin": "notes",
        "db_manager.handler": "notes.add",
        "db_manager.update_id": 7,
        "db_manager.read_only": False,
        "db_manager.retries": 0,
        "db_manager.outcome": "committed",
        "db_manager.cause": "",
        "db_manager.statements": 2,
    }
    assert unit.status.status_code is StatusCode.UNSET
    assert first.attributes == {
        "db.system.name": "sqlite",
        "db.namespace": sqlite_database.database,
        "db.operation.name": "SELECT",
        "db.query.text": "SELECT ?",
        "db_manager.unit": uow.number,
    }
    assert "canary" not in "".join(span.to_json() for span in memory.spans)
    assert unit.start_time is not None
    assert first.start_time is not None
    assert unit.start_time <= first.start_time


async def test_a_unit_inside_of_a_unit(application: Application, memory: Memory) -> None:
    """It is a span inside of the outer one, with how it joined, how it ended, and its error."""
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            memory.exporter.clear()
            async with factory_of(application)() as uow:
                async with factory_of(application)(nested="join") as inner:
                    await inner.session.execute(text("SELECT 1"))
                with pytest.raises(ZeroDivisionError):
                    async with factory_of(application)(nested="savepoint"):
                        raise ZeroDivisionError
            joined, undone = (each for each in memory.spans if each.name == "db_manager.uow.inner")
            whole = memory.only("db_manager.uow")
    assert parent_of(joined) == parent_of(undone) == id_of(whole)
    assert dict(joined.attributes or {}) == {
        "db_manager.unit": uow.number,
        "db_manager.mode": "join",
        "db_manager.outcome": "joined",
    }
    assert (joined.status.status_code, undone.status.status_code) == (
        *(StatusCode.UNSET, StatusCode.ERROR),
    )
    assert (undone.attributes or {})["error.type"] == "ZeroDivisionError"


async def test_what_rolls_a_unit_back(application: Application, memory: Memory) -> None:
    """An error becomes the status of the unit's span; a rollback by hand is none."""
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            with pytest.raises(ValueError, match="wrong"):
                async with factory_of(application)():
                    raise ValueError("wrong")
            failed = memory.only("db_manager.uow")
            memory.exporter.clear()
            async with factory_of(application)() as uow:
                await uow.rollback()
            ended = memory.only("db_manager.uow")
    assert failed.status.status_code is StatusCode.ERROR
    assert str(failed.status.description).startswith(f"ValueError: raised in {__name__}:")
    assert (failed.attributes or {})["error.type"] == "ValueError"
    assert (failed.attributes or {})["db_manager.outcome"] == "rolled_back"
    assert ended.status.status_code is StatusCode.UNSET
    assert (ended.attributes or {})["db_manager.cause"] == "explicit"


async def test_a_failed_statement(application: Application, memory: Memory) -> None:
    """A statement that the database refuses is a span with the error, and without its values."""
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            with pytest.raises(DBAPIError):
                async with factory_of(application)() as uow:
                    await uow.session.execute(
                        text("DELETE FROM nothing WHERE a = :a"), {"a": "canary"}
                    )
            span = memory.only("DELETE")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "OperationalError"
    assert (span.attributes or {})["db.query.text"] == "DELETE FROM nothing WHERE a = ?"
    assert "canary" not in "".join(span.to_json() for span in memory.spans)


async def test_retries_stand_beside_each_other(application: Application, memory: Memory) -> None:
    """Each attempt is a span with its number, and the span around them says why it was retried."""
    tracer = memory.provider.get_tracer("bot")

    async def work(uow: UnitOfWork) -> None:
        if uow.attempt == 1:
            raise DatabaseUnavailableError("gone")

    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            memory.exporter.clear()
            with tracer.start_as_current_span("update"):
                await factory_of(application).run(work)
    first, second, update = memory.spans[:3]
    assert [(s.attributes or {})["db_manager.retries"] for s in (first, second)] == [0, 1]
    assert [parent_of(s) for s in (first, second)] == [id_of(update)] * 2
    (event,) = update.events
    assert event.name == "uow.retry"
    assert (event.attributes or {})["db_manager.attempt"] == 1


async def test_statements_can_be_left_out(application: Application, memory: Memory) -> None:
    """Without statements nobody listens to them, and their events are not made."""
    with spans.attach(application.bus, tracer_provider=memory.provider, statements=False):
        async with application:
            assert not application.bus.channel("database.statement").handlers
            async with factory_of(application)() as uow:
                await uow.session.execute(text("SELECT 1"))
    assert "SELECT" not in memory.names()
    assert (memory.only("db_manager.uow").attributes or {})["db_manager.statements"] == 1


async def test_what_is_not_sampled_is_not_built(application: Application, memory: Memory) -> None:
    """A sampler that takes nothing leaves no span, and the current one as it was."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory.exporter))
    with spans.attach(application.bus, tracer_provider=provider):
        async with application:
            async with factory_of(application)() as uow:
                await uow.session.execute(text("SELECT 1"))
            assert not trace.get_current_span().get_span_context().is_valid
    assert not memory.spans
    provider.shutdown()


async def test_a_unit_without_an_end_is_forgotten(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open spans are bounded: the oldest is ended and marked, and the rest when we leave."""
    monkeypatch.setattr(spans, "MOST_OPEN", 3)
    bus = EventBus()

    async def begin(unit: int) -> None:
        bus.publish(UnitBegun(unit=unit))

    with spans.attach(bus, tracer_provider=memory.provider) as attached:
        for unit in range(10):
            await asyncio.create_task(begin(unit))
        assert attached.open == 3
        assert len(memory.spans) == 7
    assert attached.open == 0
    assert len(memory.spans) == 10
    assert all((span.attributes or {})["db_manager.abandoned"] for span in memory.spans)
    assert not bus.subscriptions


async def test_transitions_are_spans(memory: Memory) -> None:
    """Each hook is a span as long as the hook; one that failed says so."""

    class Failing(Plugin):
        name = "failing"

        async def start(self, context: PluginContext) -> None:
            raise ValueError(context.name)

    app = Application([Failing])
    with spans.attach(app.bus, tracer_provider=memory.provider):
        await app.load()
        with pytest.raises(PluginFailedError):
            await app.start()
        await app.unload()
    assert memory.names() == ["plugin.load", "plugin.start", "plugin.unload"]
    failed = memory.only("plugin.start")
    assert failed.status.description == "ValueError: failing"
    assert (failed.attributes or {})["db_manager.plugin"] == "failing"


def test_migrations_are_spans(memory: Memory) -> None:
    """Each is as long as it took, and says whose tables it changed, to what, and how it failed."""
    bus = EventBus()
    of_notes: dict[str, Any] = {"plugin": "notes", "revision": "0002_add_done"}
    with spans.attach(bus, tracer_provider=memory.provider):
        bus.publish(Migrating(at=1.0, previous="0001_first", **of_notes))
        bus.publish(MigrationFailed(at=3.0, error="ValueError: no", kept=0, **of_notes))
        bus.publish(Migrating(at=5.0, previous="0001_first", **of_notes))
        bus.publish(Migrated(at=5.5, duration=0.5, **of_notes))
    failed, applied = memory.spans
    assert {span.name for span in memory.spans} == {"db_manager.migration"}
    assert (failed.start_time, failed.end_time) == (10**9, 3 * 10**9)
    assert (applied.start_time, applied.end_time) == (5 * 10**9, 5_500_000_000)
    assert failed.status.description == "ValueError: no"
    assert applied.status.is_ok
    assert applied.attributes == {
        "db_manager.plugin": "notes",
        "db_manager.revision": "0002_add_done",
    }


async def test_a_unit_that_another_task_ends(
    application: Application, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """The span ends with the unit, whoever ends it, and OpenTelemetry has no complaint."""
    with spans.attach(application.bus, tracer_provider=memory.provider):
        async with application:
            uow = factory_of(application)()
            await asyncio.create_task(uow.__aenter__())
            with pytest.raises(UnitOfWorkTaskError):
                await asyncio.create_task(uow.__aexit__(None, None, None))
    span = memory.only("db_manager.uow")
    assert (span.attributes or {})["error.type"] == "UnitOfWorkTaskError"
    assert not caplog.records


class Breaking(SpanProcessor):
    """A processor that raises where it can."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """Raise."""
        del span, parent_context
        raise RuntimeError("on_start")


class BreakingAtTheEnd(SpanProcessor):
    """A processor that raises where spans end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Raise."""
        del span
        raise RuntimeError("on_end")


@pytest.mark.parametrize("processor", [Breaking(), BreakingAtTheEnd()], ids=["start", "end"])
async def test_a_processor_that_breaks_breaks_no_unit(
    application: Application, processor: SpanProcessor
) -> None:
    """The unit commits, the fault is reported, and the current span is as it was."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    async with application:
        with (
            spans.attach(application.bus, tracer_provider=provider) as attached,
            EventRecorder(application.bus) as events,
        ):
            async with factory_of(application)() as uow:
                await uow.session.execute(text("SELECT 1"))
            assert attached.open == 0
        assert uow.state == "committed"
        events.assert_sequence("uow.begin", "uow.commit", "uow.close")
        events.assert_event("subscriber.failed")
        assert not trace.get_current_span().get_span_context().is_valid


class Blocking(SpanExporter):
    """An exporter whose server does not answer."""

    def __init__(self) -> None:
        self.asked, self.may_end = Flag(), Flag()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait."""
        del spans
        self.asked.set()
        self.may_end.wait(10)
        return SpanExportResult.SUCCESS


async def test_an_exporter_that_blocks_blocks_no_unit(application: Application) -> None:
    """Behind a batch processor, units go on while the exporter waits for its server."""
    exporter = Blocking()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=10, max_export_batch_size=1)
    )
    async with application:
        with spans.attach(application.bus, tracer_provider=provider):
            async with factory_of(application)():
                pass
            assert await asyncio.to_thread(exporter.asked.wait, 10)
            async with factory_of(application)() as uow:
                await uow.session.execute(text("SELECT 1"))
            assert uow.state == "committed"
    exporter.may_end.set()
    await asyncio.to_thread(provider.shutdown)


async def test_without_an_sdk(application: Application) -> None:
    """With OpenTelemetry's API alone nothing is recorded and nothing breaks."""
    async with application:
        with spans.attach(application.bus), EventRecorder(application.bus) as events:
            async with factory_of(application)() as uow:
                await uow.session.execute(text("SELECT 1"))
    assert uow.state == "committed"
    events.assert_none("subscriber.failed")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opentelemetry-api the error names what to install, and nothing is attached."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    bus = EventBus()
    with pytest.raises(ImportError, match=r"install db-manager\[otel\]"):
        spans.attach(bus)
    assert not bus.subscriptions


async def test_the_spans_of_statements_say_which_server(
    postgres_database: URL, memory: Memory
) -> None:
    """On a server the statement's span carries its address and port."""
    url = postgres_database.render_as_string(hide_password=False)
    section = {"url": url, "create_tables": False, "drift": "ignore"}
    app = Application([DatabasePlugin], config={"database": section})
    with spans.attach(app.bus, tracer_provider=memory.provider):
        async with app, factory_of(app)() as uow:
            await uow.session.execute(text("SELECT 1"))
    found = next(dict(span.attributes or {}) for span in memory.spans if span.name == "SELECT")
    names = ("db.system.name", "db.namespace", "server.address", "server.port")
    place = (postgres_database.database, postgres_database.host, postgres_database.port)
    assert tuple(found[name] for name in names) == ("postgresql", *place)
