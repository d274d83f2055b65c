"""Counts, and histograms of times, that cost a request almost nothing. `exposition` writes them out for Prometheus.

The instruments of Prometheus's own library look labels up, check them and lock each number whenever something is
counted, which is a good part of what a small request costs. Here who counts holds the tally itself, and only a scrape
knows of names, labels and text.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

Labels = tuple[str, ...]
Numbers = list[tuple[Sequence[str], list[float]]]
"""Labels and numbers of each tally: counts of the buckets, and the sum of what was observed."""


def add_up(parts: Iterable[Numbers]) -> dict[Labels, list[float]]:
    """Numbers with the same labels, added.

    >>> add_up([[(("a",), [1, 2])], [(("a",), [3, 4]), (("b",), [5, 6])]])
    {('a',): [4, 6], ('b',): [5, 6]}
    """
    totals: dict[Labels, list[float]] = {}
    for labels, numbers in (entry for part in parts for entry in part):
        key = tuple(labels)
        totals[key] = [a + b for a, b in zip(totals[key], numbers, strict=True)] if key in totals else list(numbers)
    return totals


class Tally:
    """How often something was observed, by size. ``bounds`` are upper and inclusive; without any it only counts.

    Takes observations from any thread. ``observe`` merely appends to a list, which is all that a request pays for: who
    has many of them calls `sort_in` now and then, so that the list stays short.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_observed", "_sum", "observe")

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()
        self._observed: list[float] = []
        self.observe: Callable[[float], None] = self._observed.append
        """Something happened and was so long, or so large."""

    def count(self) -> None:
        """Something happened."""
        with self._lock:
            self._counts[0] += 1

    def sort_in(self) -> None:
        """Count what was observed in its buckets."""
        with self._lock:
            observed = self._observed[:]
            del self._observed[: len(observed)]  # what others append meanwhile comes after it
            for value in observed:
                self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += sum(observed)

    def numbers(self) -> list[float]:
        """The counts of the buckets, the last one being what is beyond all bounds; and the sum."""
        self.sort_in()
        with self._lock:
            return [*self._counts, self._sum]


class Family:
    """The tallies of one name, one for each combination of labels."""

    def __init__(self, name: str, documentation: str, labels: Labels, bounds: Sequence[float] = ()) -> None:
        self.name, self.documentation, self.labels, self.bounds = name, documentation, labels, bounds
        self._tallies: dict[Labels, Tally] = {}

    def tally(self, *values: str) -> Tally:
        """The one with these labels."""
        try:
            return self._tallies[values]
        except KeyError:
            return self._tallies.setdefault(values, Tally(self.bounds))

    def sort_in(self) -> None:
        """As `Tally.sort_in`, for all of them."""
        for tally in list(self._tallies.values()):
            tally.sort_in()

    def numbers(self) -> Numbers:
        """All of now."""
        return [(labels, tally.numbers()) for labels, tally in list(self._tallies.items())]
