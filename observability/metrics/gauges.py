"""Values that are sampled at each scrape: probes, plugin states, queues of the bus."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from lifecycle.bus import EventBus
from lifecycle.error_text import textless
from observability.metrics.series import metric_name, without_empty_database
from observability.vocabulary import (
    DATABASE,
    FIRST_DATABASE,
    POOL_IDLE,
    POOL_SIZE,
    POOL_UNITS,
    POOL_USED,
)

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_log = logging.getLogger("observability.metrics")

#: Functions that return a value, or several by name; see `PluginContext.probe`.
Probes = Mapping[str, Callable[[], float | Mapping[str, float]]]

#: States of a plugin, named after its events; `recovered` counts as `started`.
STATES: Final = (
    *("loading", "loaded", "starting", "started", "degraded"),
    *("stopping", "stopped", "unloading", "unloaded", "failed"),
)
_FAILURES: Final = "db_manager_probe_failures"


class Gauges:
    """Samples probes, plugin states and queues of the bus.

    Args:
        bus: The bus.
        probes: By name; the mapping may change between scrapes.
    """

    def __init__(self, bus: EventBus, probes: Probes) -> None:
        #: State of each plugin.
        self.plugins: dict[str, str] = {}
        self._bus = bus
        self._probes = probes
        self._failures: dict[str, int] = {}

    def collect(self) -> Iterator["Metric"]:
        """Yield the current values; a probe that raises is left out and counted."""
        yield self._plugin_states()
        yield from self._queues()
        yield from self._probed()
        yield self._probe_failures()

    def _plugin_states(self) -> "Metric":
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 -- an extra

        state = GaugeMetricFamily(
            "db_manager_plugin_state",
            "1 for the state that the plugin is in.",
            labels=("plugin", "state"),
        )
        for plugin, current in list(self.plugins.items()):
            for name in STATES:
                state.add_metric((plugin, name), float(name == current))
        return state

    def _queues(self) -> Iterator["Metric"]:
        """Yield how many events async subscribers have lost, and how many wait for them."""
        from prometheus_client.core import (  # noqa: PLC0415 -- an extra
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        dropped = CounterMetricFamily(
            "db_manager_bus_dropped",
            "Events that an async subscriber was too slow to receive.",
            labels=("subscriber",),
        )
        waiting = GaugeMetricFamily(
            "db_manager_bus_waiting",
            "Events that wait for an async subscriber.",
            labels=("subscriber",),
        )
        lost: dict[str, int] = {}
        queued: dict[str, int] = {}
        for subscription in self._bus.subscriptions:
            name = subscription.name
            lost[name] = lost.get(name, 0) + subscription.dropped
            queued[name] = queued.get(name, 0) + subscription.pending
        for name, count in lost.items():
            dropped.add_metric((name,), count)
            waiting.add_metric((name,), queued[name])
        yield dropped
        yield waiting

    def _probe_failures(self) -> "Metric":
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 -- an extra

        failures = CounterMetricFamily(_FAILURES, "Probes that raised.", labels=("probe",))
        for name, count in list(self._failures.items()):
            failures.add_metric((name,), count)
        return failures

    def _probed(self) -> Iterator["Metric"]:
        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, probe in list(self._probes.items()):
            try:
                value = probe()
                levels = dict(value) if isinstance(value, Mapping) else {"": value}
                numbers = {level: float(number) for level, number in levels.items()}
            except (Exception, SystemExit) as error:  # noqa: BLE001 -- it harms no other level
                self._failures[name] = self._failures.get(name, 0) + 1
                _log.debug("probe %s failed", name, exc_info=textless(error))
                continue
            for level, number in numbers.items():
                _add(found, name, level, number, is_pool={POOL_IDLE, POOL_USED} <= numbers.keys())
        yield from map(without_empty_database, found.values())


def _add(
    found: "dict[str, CounterMetricFamily | GaugeMetricFamily]",
    probe: str,
    level: str,
    number: float,
    *,
    is_pool: bool,
) -> None:
    """Add one value to its metric; those of a pool have the names of OpenTelemetry."""
    from prometheus_client.core import (  # noqa: PLC0415 -- an extra
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    plugin = probe.partition(":")[0]
    pool = probe.removesuffix(":pool")  # that of the replica is `db_manager:replica`
    labels: dict[str, str] = {}
    make: type[CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily
    if is_pool and level in {POOL_IDLE, POOL_USED}:
        name, about = "db_client_connection_count", "Connections of a pool, by state."
        labels = {"pool": pool, "state": level}
    elif is_pool and level == POOL_SIZE:
        name, about = "db_client_connection_idle_max", "Connections that a pool keeps open."
        labels = {"pool": pool}
    elif is_pool and level == POOL_UNITS:
        name, about = "db_manager_uow_open", "Units of work that are open."
        labels = {DATABASE: "" if plugin == FIRST_DATABASE else plugin}
    elif level.endswith("_total"):
        name, about = metric_name(f"{probe}_{level}").removesuffix("_total"), f"Probe {probe}."
        make = CounterMetricFamily
    else:
        name, about = metric_name(probe), f"Probe {probe}."
        labels = {"level": level} if level else {}
    metric = found.get(name)
    if metric is None:
        metric = found[name] = make(name, about, labels=tuple(labels))
    metric.add_metric(tuple(labels.values()), number)
