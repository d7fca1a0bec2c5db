"""Metrics: what is counted, under which names and labels, and what it cannot break."""

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any, ClassVar, Literal, get_origin

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import text

import db_manager.events as facts
from lifecycle.application import Application
from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from lifecycle.errors import PluginFailedError
from lifecycle.event import EVENT_TYPES, Event
from lifecycle.events import SubscriberFailed
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability import metrics
from observability.config import ObservabilityConfig
from observability.metrics import Metrics, Probes, collector

ROOT = Path(__file__).parents[3]
PACKAGES = ("lifecycle", "db_manager", "observability")
EVENTS = [e for e in EVENT_TYPES.values() if e.__module__.partition(".")[0] in PACKAGES]
#: Labels that are text: names in the program's code, and the server's codes.
NAMES = {"database", "method", "plugin", "subscriber", "sqlstate"}


@pytest.fixture
def bus() -> EventBus:
    """A bus without subscribers."""
    return EventBus()


@pytest.fixture
def measured(bus: EventBus) -> Iterator[Metrics]:
    """The metrics of that bus."""
    with metrics.attach(bus) as measured:
        yield measured


def closed(**fields: Any) -> facts.UnitClosed:
    """Return the end of a unit."""
    known = {"unit": 1, "outcome": "committed", "duration": 0.02, "statements": 2}
    return facts.UnitClosed(**{**known, "database_time": 0.01, **fields})


def shown(measured: Metrics, name: str, **labels: str) -> float | None:
    """Return one number of a scrape."""
    return measured.registry.get_sample_value(name, labels)


async def test_real_units_are_measured_by_plugin_and_outcome(application: Application) -> None:
    """A unit is one observation of its duration, under its plugin and its outcome."""
    with metrics.attach(application.bus, probes=application.probes) as measured:
        async with application:
            uow_factory = application.services["db_manager:uow_factory"]
            with correlate(plugin="notes"):
                for _ in range(2):
                    async with uow_factory() as uow:
                        await uow.session.execute(text("SELECT 1"))
            with pytest.raises(ValueError, match="wrong"):
                async with uow_factory() as uow:
                    raise ValueError("wrong")
        name = "db_manager_uow_duration_seconds"
        assert shown(measured, f"{name}_count", plugin="notes", outcome="committed") == 2
        assert (
            shown(measured, f"{name}_bucket", plugin="notes", outcome="committed", le="10.0") == 2
        )
        assert shown(measured, f"{name}_count", plugin="", outcome="rolled_back") == 1
        assert shown(measured, "uow_close_total", outcome="committed") == 2
        assert shown(measured, "uow_close_statements_sum", outcome="committed") == 2
        assert shown(measured, "uow_rollback_total", cause="error") == 1


async def test_levels_are_asked_for_at_the_scrape(application: Application) -> None:
    """Connections by state and open units are what they are at the moment of the scrape."""
    with metrics.attach(application.bus, probes=application.probes) as measured:
        async with application:
            async with application.services["db_manager:uow_factory"]() as uow:
                await uow.session.execute(text("SELECT 1"))
                pool = {"pool": "db_manager"}
                assert shown(measured, "db_client_connection_count", state="used", **pool) == 1
                assert shown(measured, "db_client_connection_idle_max", **pool) == 10
                assert shown(measured, "db_manager_uow_open") == 1
            assert shown(measured, "db_client_connection_count", state="used", **pool) == 0
            assert shown(measured, "db_client_connection_count", state="idle", **pool) == 1
            assert shown(measured, "db_manager_uow_open") == 0
        assert shown(measured, "db_manager_uow_open") is None


def test_the_wait_for_a_connection(bus: EventBus, measured: Metrics) -> None:
    """What a unit waited for its connection is found under OpenTelemetry's name."""
    bus.publish(closed(waited=0.02))
    name = "db_client_connection_wait_time_seconds"
    assert shown(measured, f"{name}_bucket", outcome="committed", le="0.01") == 0
    assert shown(measured, f"{name}_bucket", outcome="committed", le="0.05") == 1
    assert shown(measured, f"{name}_sum", outcome="committed") == pytest.approx(0.02)


async def test_the_time_of_the_journal() -> None:
    """Each event that is written counts, with its time."""
    app = Application([])
    with metrics.attach(app.bus, probes=app.probes) as measured:
        assert shown(measured, "journal_writes_total") == 0
        async with app:
            pass
        assert shown(measured, "journal_writes_total") == len(list(app.journal.entries())) == 3
        seconds = shown(measured, "journal_write_seconds_total")
    assert seconds is not None
    assert seconds > 0


async def test_the_state_of_each_plugin() -> None:
    """The gauge follows a plugin through its life, and a failed hook is counted with its time."""

    class Failing(Plugin):
        name = "failing"

        async def start(self, context: PluginContext) -> None:
            assert state("starting") == 1
            raise ValueError(context.name)

    app = Application([Failing])
    with metrics.attach(app.bus) as measured:

        def state(name: str) -> float | None:
            return shown(measured, "db_manager_plugin_state", plugin="failing", state=name)

        with pytest.raises(PluginFailedError):
            await app.start()
        assert (state("failed"), state("started"), state("starting")) == (1, 0, 0)
        await app.unload()
        assert (state("failed"), state("unloaded")) == (0, 1)
        assert shown(measured, "plugin_failed_total", plugin="failing", hook="start") == 1
        name = "db_manager_transition_duration_seconds_count"
        for transition in ("loaded", "failed", "unloaded"):
            assert shown(measured, name, plugin="failing", transition=transition) == 1


@pytest.mark.parametrize(
    ("event", "name", "labels"),
    [
        (
            facts.UnitRetried(unit=1, attempt=1, error="x", sqlstate="40001", wait=0.1),
            "db_manager_uow_retries_total",
            {"sqlstate": "40001"},
        ),
        (facts.PoolExhausted(size=1, holders=()), "db_client_connection_timeouts_total", {}),
        (
            SubscriberFailed(subscriber="notes.count", failed_topic="uow.close", error="x"),
            "db_manager_subscriber_failures_total",
            {"subscriber": "notes.count"},
        ),
        (
            facts.UnitSlow(unit=1, duration=2.0, holds_connection=True),
            "uow_slow_duration_seconds_count",
            {},
        ),
        (
            facts.Migrated(plugin="notes", revision="0001_first", duration=0.2),
            "db_manager_migrations_total",
            {"plugin": "notes", "outcome": "applied"},
        ),
        (
            facts.Migrated(plugin="notes", revision="0001_first", duration=0.2),
            "db_manager_migration_duration_seconds_count",
            {"plugin": "notes"},
        ),
        (
            facts.MigrationFailed(plugin="notes", revision="0001_first", error="x", kept=0),
            "db_manager_migrations_total",
            {"plugin": "notes", "outcome": "failed"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(
    bus: EventBus, measured: Metrics, event: Event, name: str, labels: dict[str, str]
) -> None:
    """An event is found under the name that people look for, else under that of its topic."""
    bus.publish(event)
    assert shown(measured, name, **labels) == 1


def test_an_event_of_the_users_own_needs_no_code(bus: EventBus, measured: Metrics) -> None:
    """A class that is defined later is counted and measured by what it says of itself."""

    class Sent(Event):
        topic: ClassVar[str] = "metrics-test.sent"
        labels: ClassVar[tuple[str, ...]] = ("silent", "kind")
        measures: ClassVar[tuple[str, ...]] = ("size", "latency")

        silent: bool
        kind: Literal["text", "photo"]
        size: int
        latency: float

    bus.publish(closed())  # the next event of any kind makes the new class known
    bus.publish(Sent(silent=True, kind="photo", size=20, latency=0.2))
    labels = {"silent": "true", "kind": "photo"}
    assert shown(measured, "metrics_test_sent_total", **labels) == 1
    assert shown(measured, "metrics_test_sent_size_bucket", le="10.0", **labels) == 0
    assert shown(measured, "metrics_test_sent_size_bucket", le="20.0", **labels) == 1
    assert shown(measured, "metrics_test_sent_latency_seconds_bucket", le="0.5", **labels) == 1


def test_the_steps_of_a_unit_cost_nothing(bus: EventBus, measured: Metrics) -> None:
    """Events that the end of the unit tells as well are not even built for the metrics."""
    assert bus.channel("uow.close").handlers
    for topic in ("uow.begin", "uow.commit", "database.statement"):
        assert not bus.channel(topic).handlers
    measured.close()
    assert not bus.channel("uow.close").handlers


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.topic)
def test_labels_hold_no_user_data(event: type[Event]) -> None:
    """A label is one of few values, or a name from the code of the bot."""
    types = {field.name: field.type for field in msgspec.structs.fields(event)}
    for label in event.labels:
        kind = types[label]
        is_few = (
            get_origin(kind) is Literal
            or kind is bool
            or (isinstance(kind, type) and issubclass(kind, Enum))
        )
        assert is_few or (kind is str and label in NAMES), f"{label} of {event.topic}"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.topic)
def test_what_is_no_label_is_not_shown(
    bus: EventBus, measured: Metrics, event: type[Event]
) -> None:
    """What a user wrote and who the user is does not reach a scrape, whatever field it is in."""
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(event):
        if field.name in {"at", "correlation"}:
            continue
        if field.name in event.labels:
            fields[field.name] = "label"
        elif field.name in event.measures:
            fields[field.name] = 0.5
        else:
            fields[field.name] = "canary"
    with correlate(update_id=424242, chat_type="canary", handler="canary"):
        bus.publish(event(**fields))
    output = measured.render()[0].decode()
    assert "canary" not in output
    assert "424242" not in output


def test_labels_cannot_fill_the_memory(
    bus: EventBus, measured: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a bound on, new labels are counted as `other`; known ones go on."""
    monkeypatch.setattr(collector, "MOST_SERIES", 3)
    for number in [*range(10), 0]:
        with correlate(plugin=f"plugin {number}"):
            bus.publish(closed())
    count = "db_manager_uow_duration_seconds_count"
    assert shown(measured, count, plugin="plugin 0", outcome="committed") == 2
    assert shown(measured, count, plugin="other", outcome="other") == 7
    assert measured.render()[0].count(b"db_manager_uow_duration_seconds_count") == 4


def test_events_of_many_threads_are_all_counted(bus: EventBus, measured: Metrics) -> None:
    """Two threads that publish at once lose no count."""
    event = closed()

    def publish() -> None:
        for _ in range(2000):
            bus.publish(event)

    threads = [Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown(measured, "uow_close_total", outcome="committed") == 8000
    assert shown(measured, "uow_close_statements_count", outcome="committed") == 8000


async def test_what_a_slow_subscriber_lost(bus: EventBus, measured: Metrics) -> None:
    """Events dropped from a full queue, and those that wait in it, are shown by subscriber."""
    may_end = asyncio.Event()

    async def slow(_: Event) -> None:
        await may_end.wait()

    subscription = bus.subscribe("uow.close", slow, queue_size=2)
    for _ in range(5):
        bus.publish(closed())
    assert shown(measured, "db_manager_bus_dropped_total", subscriber=subscription.name) == 3
    assert shown(measured, "db_manager_bus_waiting", subscriber=subscription.name) == 2
    assert shown(measured, "subscriber_overflowed_total", subscriber=subscription.name) == 1
    may_end.set()
    assert await bus.drain(5)


def test_a_probe_that_raises_harms_no_other(bus: EventBus) -> None:
    """It is left out and counted; the rest of the scrape is there."""
    probes: Probes = {
        "notes:broken": lambda: 1 / 0,
        "notes:ended": sys.exit,
        "notes:queue": lambda: 3,
        "notes:by": lambda: {"a": 1, "sent_total": 2},
    }
    with metrics.attach(bus, probes=probes) as measured:
        assert shown(measured, "notes_queue") == 3
        assert shown(measured, "notes_by", level="a") == 1
        assert shown(measured, "notes_by_sent_total") == 2
        assert shown(measured, "notes_broken") is None
        assert shown(measured, "db_manager_probe_failures_total", probe="notes:broken") == 5
        assert shown(measured, "db_manager_probe_failures_total", probe="notes:ended") == 6


async def test_a_probe_that_blocks_blocks_no_unit(application: Application) -> None:
    """While a scrape hangs in a probe, units go on and are counted."""
    asked, may_end = Flag(), Flag()

    def slow() -> float:
        asked.set()
        return float(may_end.wait(10))

    application.probes["test:slow"] = slow
    with metrics.attach(application.bus, probes=application.probes) as measured:
        async with application:
            scrape = asyncio.create_task(asyncio.to_thread(measured.render))
            assert await asyncio.to_thread(asked.wait, 10)
            async with application.services["db_manager:uow_factory"]() as uow:
                await uow.session.execute(text("SELECT 1"))
            assert not scrape.done()
            may_end.set()
            await scrape
        assert shown(measured, "uow_close_total", outcome="committed") == 1


class Unreadable:
    """A label that says what somebody typed when it is asked."""

    def __str__(self) -> str:
        raise ValueError("hunter" + str(2))


def test_an_event_that_cannot_be_measured_is_reported(
    bus: EventBus, measured: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong in the metrics reaches neither the publisher nor the next event."""
    bus.publish(closed(duration="long"))
    bus.publish(closed(outcome=Unreadable()))
    bus.publish(closed())
    count = "db_manager_uow_duration_seconds_count"
    assert shown(measured, count, plugin="", outcome="committed") == 1
    assert caplog.messages == ["an event uow.close cannot be counted"] * 2
    assert "ValueError: raised in " in caplog.text
    assert "hunter2" not in caplog.text


def test_events_are_counted_together(bus: EventBus, measured: Metrics) -> None:
    """However many come between two scrapes, each is counted once, and few of them wait."""
    for _ in range(1000):
        bus.publish(closed())
    assert len(measured._waiting) < 256
    assert shown(measured, "uow_close_total", outcome="committed") == 1000
    assert shown(measured, "uow_close_total", outcome="committed") == 1000


def test_a_registry_of_ones_own(bus: EventBus) -> None:
    """The metrics join it, and leave it when they are closed; nothing listens any more then."""
    registry = CollectorRegistry()
    with metrics.attach(bus, registry=registry) as measured:
        bus.publish(closed())
        assert registry.get_sample_value("uow_close_total", {"outcome": "committed"}) == 1
    assert registry.get_sample_value("uow_close_total", {"outcome": "committed"}) is None
    assert not bus.subscriptions
    measured.close()


def test_without_the_extra(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus-client the error names what to install, and nothing is attached."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"install db-manager\[metrics\]"):
        metrics.attach(bus)
    assert not bus.subscriptions


# -- the dashboard ------------------------------------------------------------------------


#: What test_delivery.py sees of a real bot.
_MESSAGE: dict[str, Any] = {"message": 1, "bot_id": 42, "method": "sendMessage"}
_UPDATE: dict[str, Any] = {"bot_id": 42, "update_id": 1, "attempts": 1}
OF_DELIVERY: tuple[Event, ...] = (
    facts.MessageSent(**_MESSAGE, attempts=1, wait=0.1),
    facts.MessageRetried(**_MESSAGE, attempts=1, wait=0.4, error="x"),
    facts.MessageDead(**_MESSAGE, error="x"),
    facts.MessageUnknown(**_MESSAGE),
    facts.UpdateStored(bot_id=42, count=1),
    facts.UpdateDone(**_UPDATE, wait=0.1),
    facts.UpdateRetried(**_UPDATE, error="x"),
    facts.UpdateTaken(**_UPDATE),
    facts.UpdateParked(**_UPDATE, error="x"),
    facts.DeliveryBehind(messages=1, updates=0, oldest=11.0),
)


@pytest.fixture
async def scraped(application: Application) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample of a bot, by name: after real units, and all that may go wrong."""
    bus = application.bus
    application.probes["test:broken"] = lambda: 1 / 0
    for part in ("outbox", "inbox"):
        application.probes[f"delivery:{part}"] = lambda: {"open": 0.0}
    with metrics.attach(bus, probes=application.probes) as measured:
        async with application:
            measured.render()
            make = application.services["db_manager:uow_factory"]
            async with make() as uow, make(nested="join"):
                await uow.session.execute(text("SELECT 1"))
            bus.publish(closed(outcome="outcome_unknown"))
            bus.publish(facts.UnitRolledBack(unit=1, cause="error"))
            bus.publish(facts.UnitRetried(unit=1, attempt=1, error="x", wait=0.1))
            bus.publish(facts.UnitSlow(unit=1, duration=2.0, holds_connection=True))
            bus.publish(facts.PoolExhausted(size=1, holders=()))
            bus.publish(facts.Migrated(plugin="notes", revision="0001_first", duration=0.1))
            bus.publish(SubscriberFailed(subscriber="s", failed_topic="uow.close", error="x"))
            for event in OF_DELIVERY:
                bus.publish(event)
            output = measured.render()[0].decode()
            openmetrics = measured.render("application/openmetrics-text; version=1.0.0")[0].decode()
    assert list(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]  # untyped there
    samples: dict[str, list[dict[str, str]]] = {}
    for family in parse(output):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    return samples


def test_the_dashboard_asks_for_what_is_there(scraped: dict[str, list[dict[str, str]]]) -> None:
    """Each query of docs/grafana.json names metrics, labels and values of a real scrape."""
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= 20
    for query in queries:
        check(query, scraped)


@pytest.mark.parametrize(
    "query",
    [
        "sum(rate(uow_closed_total[5m]))",
        'db_client_connection_count{state="busy"}',
        "sum by (chat) (uow_close_total)",
    ],
)
def test_a_wrong_query_is_found(query: str, scraped: dict[str, list[dict[str, str]]]) -> None:
    """A name, a label or a value that no scrape shows does not pass."""
    with pytest.raises(AssertionError):
        check(query, scraped)


def check(query: str, scraped: dict[str, list[dict[str, str]]]) -> None:
    """Fail unless each metric, label and value of a query is in a scrape."""
    plain = re.sub(r"by \([^)]*\)|\[[^\]]*\]|\bhistogram_quantile\b", "", query)
    selectors = re.findall(r"\b([a-z]+_\w+)(?:\{([^}]*)\})?", plain)
    assert selectors, query
    labels: set[str] = set()
    for name, matchers in selectors:
        assert name in scraped, f"{name} in {query}"
        labels.update(*scraped[name])
        for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
            assert any(each.get(label) == value for each in scraped[name]), query
    groups = re.findall(r"by \(([^)]*)\)", query)
    assert {label.strip() for group in groups for label in group.split(",")} <= labels, query


def test_the_documented_metrics_are_there(scraped: dict[str, list[dict[str, str]]]) -> None:
    """Each metric of docs/metrics.md is in a scrape, with the labels that the page says."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    ObservabilityConfig.model_validate(tomllib.loads(example)["observability"])
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\|", page, re.MULTILINE)
    assert len(rows) > 12
    for name, kind, labels in rows:
        sample = f"{name}_count" if kind == "histogram" else name
        assert set(scraped[sample][0]) == set(re.findall(r"`(\w+)`", labels)), name
