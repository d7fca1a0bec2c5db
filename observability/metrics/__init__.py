"""Prometheus metrics from events: counters and histograms that the event classes describe."""

from typing import TYPE_CHECKING

from lifecycle.bus import EventBus
from observability.metrics.collector import Metrics
from observability.metrics.gauges import Probes

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Metrics", "Probes", "attach"]


def attach(
    bus: EventBus,
    *,
    registry: "CollectorRegistry | None" = None,
    probes: Probes | None = None,
) -> Metrics:
    """Count and measure the events of *bus* for Prometheus.

    Of each event class its counter `<topic>_total` with its `labels`, and a histogram for each of
    its `measures`. What is only for debugging and has neither is not counted.

    Args:
        bus: The bus.
        registry: Where the metrics are collected; by default a registry of their own.
        probes: Levels to sample at each scrape, in the thread of the scrape: `app.probes`.

    Returns:
        The metrics, to be closed.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise ImportError(
            "metrics need prometheus-client: install db-manager[metrics]", name=error.name
        ) from error
    if registry is None:
        registry = CollectorRegistry()
    return Metrics(bus, registry, {} if probes is None else probes)
