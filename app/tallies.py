"""Counts, and histograms of times, that cost a request almost nothing; Prometheus's library writes them out.

Its own instruments take some 25 microseconds of a request that takes 100: they look labels up, check them and lock each
number. Here who counts holds the tally itself, and only the scrape knows of names, labels and text.

What several processes counted is added up from snapshots, which are plain lists (see `Family.snapshot`).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from threading import Lock

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]
Snapshot = list[tuple[Sequence[str], list[float]]]
"""Labels and numbers of each tally: counts of the buckets, and the sum of what was observed."""


class Tally:
    """How often something was observed, by size. ``bounds`` are upper and inclusive; without any it only counts.

    Takes observations from any thread.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def count(self) -> None:
        """Something happened."""
        with self._lock:
            self._counts[0] += 1

    def observe(self, value: float) -> None:
        """Something happened and was so long, or so large."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def numbers(self) -> list[float]:
        """The counts of the buckets, the last one being what is beyond all bounds; and the sum."""
        with self._lock:
            return [*self._counts, self._sum]


class Family:
    """The tallies of one name, one for each combination of labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float] = ()) -> None:
        self.name, self._documentation, self._labels, self._bounds = name, documentation, labels, bounds
        self._tallies: dict[Labels, Tally] = {}

    def tally(self, *values: str) -> Tally:
        """The one with these labels."""
        try:
            return self._tallies[values]
        except KeyError:
            return self._tallies.setdefault(values, Tally(self._bounds))

    def snapshot(self) -> Snapshot:
        """All numbers of now."""
        return [(labels, tally.numbers()) for labels, tally in list(self._tallies.items())]

    def exposed(self, snapshots: Iterable[Snapshot]) -> Metric:
        """The sum of snapshots, as Prometheus's library takes it."""
        totals: dict[Labels, list[float]] = {}
        for labels, numbers in (entry for snapshot in snapshots for entry in snapshot):
            key = tuple(labels)
            before = totals.get(key)
            totals[key] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]
        if not self._bounds:
            counter = CounterMetricFamily(self.name, self._documentation, labels=self._labels)
            for labels, numbers in totals.items():
                counter.add_metric(labels, numbers[0])
            return counter
        histogram = HistogramMetricFamily(self.name, self._documentation, labels=self._labels)
        for labels, numbers in totals.items():
            buckets, reached = [], 0.0
            for bound, number in zip([*map(float, self._bounds), float("inf")], numbers, strict=False):
                reached += number
                buckets.append(("+Inf" if bound == float("inf") else str(bound), reached))
            histogram.add_metric(labels, buckets, numbers[-1])
        return histogram
