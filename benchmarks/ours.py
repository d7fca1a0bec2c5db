"""Our side of the comparisons: units of work in their lanes, and who watches them."""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import URL

from benchmarks.contenders import POOL, Units
from benchmarks.drivers import DRIVER_PARTS
from benchmarks.rounds import Case
from benchmarks.statements import (
    CORE_PARTS,
    EMPTY,
    GET,
    ORM_PARTS,
    SELECT,
    SESSION_PARTS,
    nothing,
    whole,
)
from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.engine.create import create_engine
from db_manager.running.port import Runner
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bus import EventBus

SESSION_LANE: Final = "uow.session"
CORE_LANE: Final = "uow.connection"
DRIVER_LANE: Final = "uow.driver()"


def open_database(
    stack: AsyncExitStack,
    url: URL,
    bus: EventBus | None = None,
    make_runner: Callable[[], Runner] | None = None,
    **settings: Any,
) -> Database:
    """Return the database as the plugin makes it, with our default settings.

    Args:
        stack: Closes it.
        url: Where it is.
        bus: Where its units publish.
        make_runner: Makes what runs its units.
        **settings: Keys of the section [database].
    """
    config = DatabaseConfig.model_validate(
        {"url": url.render_as_string(hide_password=False), "pool_size": POOL, **settings}
    )
    database = Database(
        create_engine(config),
        make_reader=partial(create_engine, config, read_only=True),
        bus=bus,
        make_runner=make_runner,
    )
    stack.push_async_callback(database.dispose)
    return database


def lanes(database: Database) -> dict[str, Units]:
    """Return the three lanes into a unit."""
    units = UnitOfWorkFactory(database)
    return {
        SESSION_LANE: session_lane(units),
        CORE_LANE: _through(units, "connection", CORE_PARTS),
        DRIVER_LANE: {
            work: _driven(units, part)
            for work, part in DRIVER_PARTS[database.engine.dialect.driver].items()
            if work != EMPTY  # an empty unit touches no lane
        },
    }


def session_lane(units: UnitOfWorkFactory) -> Units:
    """Return units through the session, and the empty one."""
    return {**_through(units, "session", SESSION_PARTS), EMPTY: whole(units, nothing)}


def read_only(database: Database) -> dict[str, Units]:
    """Return units that only read, in the three lanes."""
    units = partial(UnitOfWorkFactory(database), read_only=True)
    read = {SELECT: CORE_PARTS[SELECT]}
    driven = DRIVER_PARTS[database.engine.dialect.driver][SELECT]
    return {
        "read_only session": _through(units, "session", {**read, GET: ORM_PARTS[GET]}),
        "read_only connection": _through(units, "connection", read),
        "read_only driver()": {SELECT: _driven(units, driven)},
    }


def _through(
    units: Callable[[], Any], lane: str, parts: Mapping[str, Callable[[Any], Any]]
) -> Units:
    return {
        work: whole(units, part, attrgetter(lane)) for work, part in parts.items() if work != EMPTY
    }


def _driven(units: Callable[[], Any], part: Callable[[Any], Any]) -> Case:
    async def unit() -> None:
        async with units() as uow:
            await part(await uow.driver())

    return unit


# -- observers ---------------------------------------------------------------------------------


class Watched(NamedTuple):
    """Units with an observer.

    Args:
        units: By their work.
        settle: Waits until the observer's threads have done their part.
    """

    units: Units
    settle: Callable[[], object]


#: What observers there are, by the name of the setting.
OBSERVERS: Final = {
    "nobody": (),
    "a function that does nothing": ("idle",),
    "logs filtered out": ("quiet",),
    "JSON logs": ("logs",),
    "metrics": ("metrics",),
    "metrics and logs": ("metrics", "logs"),
    "spans": ("spans",),
    "everything, a tenth of the spans": ("metrics", "logs", "sampled"),
}


def watched(stack: AsyncExitStack, url: URL) -> dict[str, Watched]:
    """Return units through the session with each set of observers, on databases of their own."""
    found: dict[str, Watched] = {}
    for name, observers in OBSERVERS.items():
        bus = EventBus()
        waits = [_ATTACH[observer](stack, bus) for observer in observers]
        units = session_lane(UnitOfWorkFactory(open_database(stack, url, bus)))
        found[name] = Watched(units, partial(_settle, waits))
    return found


def _settle(waits: list[Callable[[], object]]) -> None:
    for wait in waits:
        wait()


def _idle(_: AsyncExitStack, bus: EventBus) -> Callable[[], object]:
    bus.subscribe("uow.close", lambda _: None)
    return bool


def _quiet(stack: AsyncExitStack, bus: EventBus) -> Callable[[], object]:
    return _log(stack, bus, level="warning")


def _log(stack: AsyncExitStack, bus: EventBus, **options: Any) -> Callable[[], object]:
    from observability import logs  # noqa: PLC0415 -- observers are imported when attached

    stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- the stack closes it
    stack.enter_context(stream)
    lines = logs.attach(bus, format="json", stream=stream, stdlib=False, **options)
    stack.enter_context(lines)
    return lines.flush


def _measure(stack: AsyncExitStack, bus: EventBus) -> Callable[[], object]:
    from observability import metrics  # noqa: PLC0415 -- as above

    stack.enter_context(metrics.attach(bus))
    return bool


def _sample(stack: AsyncExitStack, bus: EventBus) -> Callable[[], object]:
    return _trace(stack, bus, share=0.1)


def _trace(stack: AsyncExitStack, bus: EventBus, share: float = 1.0) -> Callable[[], object]:
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 -- as above
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 -- as above
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415 -- as above

    from observability import spans  # noqa: PLC0415 -- as above

    class Nowhere(SpanExporter):
        """Takes spans as a collector would, without a network."""

        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 -- the signature there
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    stack.callback(provider.shutdown)
    stack.enter_context(spans.attach(bus, tracer_provider=provider))
    return provider.force_flush


_ATTACH: Final = {
    "idle": _idle,
    "quiet": _quiet,
    "logs": _log,
    "metrics": _measure,
    "spans": _trace,
    "sampled": _sample,
}
