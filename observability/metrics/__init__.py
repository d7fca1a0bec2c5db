"""Prometheus metrics from events: the counters and histograms that event classes describe."""

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

    Each event class has a counter `<topic>_total` with its `labels`, and a histogram for each of
    its `measures`. Classes of level debug that have neither are not counted.

    Args:
        bus: The bus.
        registry: Where the metrics are registered; by default a new registry.
        probes: Probes to sample at each scrape, in its thread; usually `app.probes`.

    Returns:
        The metrics; close them to detach.

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
