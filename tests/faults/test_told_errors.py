"""What users typed reaches no event, log line, record, journal, span or metric by an error: S4."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from support.failing import CANARY, FUNCTIONS, NUMBER, WAYS, Told

from db_manager.events import UnitClosed, UnitCommitted
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle import error_text
from lifecycle.application import Application
from lifecycle.journal import SqliteJournal
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability import logs, metrics, spans
from observability.commands.cli import main
from observability.story.unit_log import units_path
from observability.story.unit_writer import record_units
from observability.testing import EventRecorder

Row = Callable[..., None]

OURS = ("lifecycle", "db_manager", "observability")


class Careless(Plugin):
    """Fails with what a user typed in every place that is its own."""

    name = "careless"
    requires = ("db_manager",)

    async def start(self, context: PluginContext) -> None:
        """Subscribe, offer a level and begin to work; each of them fails."""
        context.subscribe("uow.commit", self.plain)
        context.subscribe("uow.commit", self.patient)
        context.subscribe("subscriber.failed", self.plain)
        context.probe("careless", self.level)
        context.spawn(self.work(), "work")
        await context.enter(Leaving())

    def plain(self, _: UnitCommitted) -> None:
        """Fail as a plain subscriber."""
        raise ValueError(CANARY)

    async def patient(self, _: UnitCommitted) -> None:
        """Fail as an async one."""
        raise KeyError(CANARY)

    def level(self) -> float:
        """Fail to measure."""
        raise ValueError(CANARY)

    async def work(self) -> None:
        """Fail in the background."""
        await asyncio.sleep(0)
        raise RuntimeError(CANARY) from ValueError(CANARY)

    async def stop(self, _: PluginContext) -> None:
        """Fail to keep what came last."""
        raise ValueError(f"cannot keep {CANARY}")


class Leaving:
    """A resource that cannot be given back."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        raise OSError(5, CANARY)


class Bench:
    """An application, and everything that is told of it."""

    def __init__(self, app: Application, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self.stream = io.StringIO()
        self.spans = InMemorySpanExporter()
        self.registry = CollectorRegistry()
        self.events: list[dict[str, Any]] = []
        self.measured = ""

    def attach(self, stack: ExitStack) -> None:
        """Listen in every way there is."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        bus = self.app.bus
        recorder = stack.enter_context(EventRecorder(bus))
        stack.callback(lambda: self.events.extend(each.as_dict() for each in recorder.events))
        stack.enter_context(logs.attach(bus, level="debug", format="json", stream=self.stream))
        stack.callback(record_units(bus, units_path(self.folder / "journal.sqlite3")))
        stack.enter_context(spans.attach(bus, tracer_provider=provider))
        stack.enter_context(metrics.attach(bus, registry=self.registry, probes=self.app.probes))

        stack.callback(self._measure)

    def _measure(self) -> None:
        self.measured = generate_latest(self.registry).decode()

    def told(self) -> dict[str, str]:
        """Return what was told, by the place."""
        return {
            "event": "\n".join(map(repr, self.events)),
            "log": self.stream.getvalue(),
            "record": (self.folder / "journal.units.jsonl").read_text(),
            "journal": "\n".join(
                repr(entry) for entry in SqliteJournal(self.folder / "journal.sqlite3").entries()
            ),
            "span": "\n".join(span.to_json() for span in self.spans.get_finished_spans()),
            "metric": self.measured,
        }


@asynccontextmanager
async def bench(url: URL, folder: Path, *plugins: type[Plugin]) -> AsyncIterator[Bench]:
    """Run an application of one connection under every observer.

    Args:
        url: Its database.
        folder: Where journal and record are written.
        *plugins: Further plugins.
    """
    section = {
        "url": url.render_as_string(hide_password=False),
        "create_tables": False,
        "drift": "ignore",
        "pool_size": 1,
        "pool_timeout": 0.5,
        "slow_unit": 0.01,
    }
    config = {"database": section}
    journal = SqliteJournal(folder / "journal.sqlite3")
    made = Bench(Application([DatabasePlugin, *plugins], config=config, journal=journal), folder)
    with ExitStack() as stack:
        made.attach(stack)
        with suppress(ExceptionGroup):  # what Careless does in its stop
            async with made.app:
                yield made


def found(told: dict[str, str]) -> dict[str, str]:
    """Return the places that show what a user typed, each with the first line that does."""
    return {
        place: line
        for place, said in told.items()
        for line in reversed(said.splitlines())
        if CANARY in line or str(NUMBER) in line
    }


@pytest.fixture(params=["asyncpg", "psycopg", "aiosqlite", "asyncmy"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, on each driver."""
    driver = request.param
    kind = {"aiosqlite": "sqlite", "asyncmy": "mariadb"}.get(driver, "postgres")
    database: URL = request.getfixturevalue(f"{kind}_database")
    return database.set(drivername=f"postgresql+{driver}") if kind == "postgres" else database


async def fail_in_all_ways(factory: UnitOfWorkFactory, driver: str) -> list[str]:
    """Fail, and return the names of the ways; the caller's error still says everything."""
    ways = {name: way for name, way in WAYS.items() if driver in way.drivers}
    failed = []
    for name, way in ways.items():
        try:
            await way.fail(factory)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 -- any is right
            failed.append(name)
    assert failed == list(ways)
    return failed


async def prepare(url: URL, factory: UnitOfWorkFactory) -> None:
    """Make what refuses."""
    async with factory() as uow:
        await (await uow.session.connection()).run_sync(
            lambda connection: Told.metadata.create_all(
                connection, [Told.__table__], checkfirst=False
            )
        )
        for statement in FUNCTIONS if url.get_backend_name() == "postgresql" else ():
            await uow.session.execute(text(statement))


async def test_what_users_typed_is_told_nowhere(
    url: URL, tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    """S4: no way of failing brings the user's text into anything that outlives the exception."""
    async with bench(url, tmp_path, Careless) as made:
        factory = UnitOfWorkFactory(made.app.services["db_manager:engine"])
        await prepare(url, factory)
        ways = await fail_in_all_ways(factory, url.get_driver_name())
    told = made.told()
    main(["trace", "--journal", str(tmp_path / "journal.sqlite3"), "--units"])
    told["trace"] = capsys.readouterr().out
    assert found(told) == {}
    closed = [event for event in made.events if event["topic"] == "uow.close"]
    assert len(closed) >= len(ways)
    assert {place for place, said in told.items() if len(said) < 500} == set()
    row(
        "S4",
        load=f"{len(ways)} ways to fail, {url.get_driver_name()}",
        result=f"0 hits in {sum(map(len, told.values()))} characters of {', '.join(told)}",
    )


async def test_the_search_finds_what_is_told(
    sqlite_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S4, wrong variant: where the text of errors is told, the search finds it everywhere."""

    def with_text(error: BaseException) -> error_text.Told:
        return type(error).__name__, [" ".join(str(error).split())]

    monkeypatch.setattr(error_text, "_told", with_text)
    async with bench(sqlite_database, tmp_path, Careless) as made:
        factory = UnitOfWorkFactory(made.app.services["db_manager:engine"])
        for _ in range(2):
            with pytest.raises(ValueError, match=CANARY):
                await WAYS["value_error"].fail(factory)
            with pytest.raises(ValueError, match=CANARY):
                await WAYS["by_callback"].fail(factory)
    assert set(found(made.told())) >= {"event", "log", "record", "journal", "span"}


async def test_an_error_is_still_of_use(postgres_database: URL, tmp_path: Path) -> None:
    """At night the line says the class, the code, the constraint, the table and the place."""
    async with bench(postgres_database, tmp_path) as made:
        factory = UnitOfWorkFactory(made.app.services["db_manager:engine"])
        await prepare(postgres_database, factory)
        with pytest.raises(IntegrityError):
            await WAYS["duplicate"].fail(factory)
    (closed,) = [
        event for event in made.events if event.get("cause") == "error" and "outcome" in event
    ]
    start = "UniqueViolationError: 23505, constraint uq_told__row_name, table told__row, raised in "
    assert closed["error"].startswith(start)
    assert "failing" in closed["error"]


def test_a_log_line_has_the_stack_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """A logged error shows where it came from and what caused it, and neither text nor notes."""

    def fail() -> None:
        raise KeyError(CANARY)

    with pytest.raises(KeyError) as caught:
        fail()
    error = RuntimeError(CANARY)
    error.add_note(CANARY)
    error.__cause__, caught.value.__cause__ = caught.value, error  # a circle
    logging.getLogger("lifecycle").error("failed", exc_info=error_text.textless(error))
    assert CANARY not in caplog.text
    assert "in fail\n" in caplog.text
    assert "KeyError: raised in" in caplog.text
    assert "direct cause" in caplog.text


def test_all_that_is_told_is_known_here() -> None:
    """The events whose lines are searched are really made by these ways."""
    assert UnitClosed.topic == "uow.close"
    assert len(WAYS) > 40
