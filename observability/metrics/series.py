"""Counters and histograms by labels: cheap to update, rendered when scraped."""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from observability.vocabulary import DATABASE

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Upper bounds of histograms: for seconds those of OpenTelemetry, and for counts.
SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
COUNTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)

Labels = tuple[str, ...]


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Distribution:
    """A histogram: how many values fell below each bound; `Metrics` adds them.

    Args:
        bounds: Upper bounds, ascending; values above the last are counted too.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0


Cell = TypeVar("Cell", Counter, Distribution)


class Family(Generic[Cell]):
    """The cells of one name, one for each combination of labels.

    Args:
        name: The Prometheus name, without `_total`.
        about: Its help text, one line.
        labels: Names of the labels.
        make: Makes a cell.
    """

    def __init__(self, name: str, about: str, labels: Labels, make: Callable[[], Cell]) -> None:
        self.name = name
        self.about = about
        self.labels = labels
        self.cells: dict[Labels, Cell] = {}
        self._make: Callable[[], Cell] = make

    def cell(self, labels: Labels) -> Cell:
        """Return the cell of *labels*; it is made at its first use."""
        found = self.cells.get(labels)
        if found is None:
            found = self.cells[labels] = self._make()
        return found


def metric_name(name: str) -> str:
    """Return the name of a topic or probe with characters that Prometheus allows."""
    return re.sub(r"^(?=\d)|\W", "_", name, flags=re.ASCII)


def without_empty_database(metric: "Metric") -> "Metric":
    """Leave an empty label `database` out: a bot with one database has no such label.

    Args:
        metric: The metric; its samples are changed.
    """
    for number, sample in enumerate(metric.samples):
        if sample.labels.get(DATABASE) == "":
            labels = {name: value for name, value in sample.labels.items() if name != DATABASE}
            metric.samples[number] = sample._replace(labels=labels)
    return metric


def counters(families: list[Family[Counter]]) -> Iterator["Metric"]:
    """Yield *families* as metrics of prometheus_client."""
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 -- an extra

    for family in families:
        shown = CounterMetricFamily(family.name, family.about, labels=family.labels)
        for labels, counter in family.cells.items():
            shown.add_metric(labels, counter.value)
        yield without_empty_database(shown)


def histograms(families: list[Family[Distribution]]) -> Iterator["Metric"]:
    """Yield *families* as metrics of prometheus_client."""
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 -- an extra

    for family in families:
        shown = HistogramMetricFamily(family.name, family.about, labels=family.labels)
        for labels, distribution in family.cells.items():
            names = [*map(str, distribution.bounds), "+Inf"]
            upto = zip(names, map(float, accumulate(distribution.counts)), strict=True)
            shown.add_metric(labels, list(upto), distribution.sum)
        yield without_empty_database(shown)
