"""Metrics as the text that Prometheus scrapes, of one process or of several that serve together.

Importing this imports Prometheus's library: `metrics` does so when it is first scraped.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.metrics import CONTENT_TYPE, Gauge, Snapshot
from app.tallies import Family, add_up

assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4  # noqa: S101 (what `generate_latest` writes)

_OF_ONE: dict[str, Callable[[Iterable[float]], float]] = {"process_start_time_seconds": min, "process_max_fds": min}
"""Which of the processes' values is told; all others are added up."""


def text(families: Sequence[Family], gauges: Sequence[Gauge], snapshots: Sequence[Snapshot]) -> bytes:
    """The sum of what the processes of ``snapshots`` counted, and what they have now."""
    registry = CollectorRegistry()
    processes = [snapshot["process"] for snapshot in snapshots if snapshot["process"] is not None]
    spent = sum(snapshot["cpu_seconds"] for snapshot in snapshots if snapshot["process"] is None)
    registry.register(_Collected(list(_processes(processes, spent))))
    registry.register(_Collected([_tallied(family, snapshots) for family in families]))
    registry.register(_Collected([_read(gauge, snapshots) for gauge in gauges]))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _tallied(family: Family, snapshots: Sequence[Snapshot]) -> Metric:
    totals = add_up(snapshot["tallies"].get(family.name, []) for snapshot in snapshots)
    if not family.bounds:
        counter = CounterMetricFamily(family.name, family.documentation, labels=family.labels)
        for labels, numbers in totals.items():
            counter.add_metric(labels, numbers[0])
        return counter
    histogram = HistogramMetricFamily(family.name, family.documentation, labels=family.labels)
    bounds = [*(str(float(bound)) for bound in family.bounds), "+Inf"]
    for labels, (*counts, total) in totals.items():
        reached = 0.0
        buckets: list[tuple[str, float]] = []
        for bound, number in zip(bounds, counts, strict=True):
            reached += number
            buckets.append((bound, reached))
        histogram.add_metric(labels, buckets, total)
    return histogram


def _read(gauge: Gauge, snapshots: Sequence[Snapshot]) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.documentation, labels=gauge.labels)
    for labels, (number,) in add_up(snapshot["gauges"].get(gauge.name, []) for snapshot in snapshots).items():
        family.add_metric(labels, 1 if gauge.is_info else number)
    return family


def _processes(processes: Sequence[int], spent: float) -> Iterator[Metric]:
    """Prometheus's own metrics of processes, of these together; one that has just ended has none.

    ``spent`` are the seconds of those that are no more, for a counter does not go back.
    """
    found: dict[str, list[Metric]] = {}
    for process in processes:
        for metric in ProcessCollector(pid=partial(int, process), registry=None).collect():
            found.setdefault(metric.name, []).append(metric)
    for metric, *others in found.values():
        (sample,) = metric.samples
        values = [sample.value, *(other.samples[0].value for other in others)]
        if sample.name == "process_cpu_seconds_total":
            values.append(spent)
        metric.samples = [sample._replace(value=_OF_ONE.get(sample.name, sum)(values))]
        yield metric
