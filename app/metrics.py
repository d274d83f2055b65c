"""What is counted and timed in one server process, and what all processes of a server have counted together.

Every label has few values, whatever clients ask for. Gauges are asked when scraped, so that no request pays for them.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypedDict, cast

from app.colleagues import Colleagues
from app.tallies import Family, Labels, Numbers, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_GONE = 499  # nginx's number for a client that closed its connection; no such answer is ever sent

_SECONDS = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_UNSORTED = 256
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Gauge(NamedTuple):
    """Values that ``readings`` tells: the labels and the number of each. An info is 1 whoever has it."""

    name: str
    documentation: str
    labels: Labels
    readings: Callable[[], Iterable[tuple[Labels, float]]]
    is_info: bool = False


class Snapshot(TypedDict):
    """Everything of one process at one moment, as JSON holds it too."""

    process: int | None
    cpu_seconds: float
    tallies: dict[str, Numbers]
    gauges: dict[str, Numbers]


class Metrics:
    """The instruments of one process; ``colleagues`` are those that serve beside it."""

    def __init__(self, colleagues: Colleagues | None = None) -> None:
        self._colleagues = colleagues
        graph = ("model", "graph")
        self._requests = Family("vae_requests", "Requests answered.", ("route", "method", "status"))
        self._duration = Family(
            "vae_request_duration_seconds", "From the request's head to the answer's last byte.", ("route",), _SECONDS
        )
        self._wait = Family("vae_queue_wait_seconds", "Time in a queue before computation.", graph, _SECONDS)
        self._inference = Family("vae_inference_seconds", "One run of a graph on a batch.", graph, _SECONDS)
        self._batch = Family("vae_batch_size", "Images or latents in one run of a graph.", graph, _ROWS)
        self._codec = Family(
            "vae_codec_seconds", "Reading bodies, making latents, writing answers.", ("stage",), _SECONDS
        )
        self._codec_wait = Family("vae_codec_wait_seconds", "Time until a codec thread was free.", ("stage",), _SECONDS)
        self._rejections = Family("vae_rejections", "Requests turned away or given up, by reason.", ("reason",))
        self._families = (
            self._requests, self._duration, self._wait, self._inference, self._batch, self._codec, self._codec_wait,
            self._rejections,
        )  # fmt: skip
        self._unsorted = 0  # requests and runs since observations were last counted; threads may lose some
        self._of_requests: dict[tuple[str, str, int], tuple[Tally, Tally]] = {}  # found with one look
        self._models: dict[Labels, float] = {}
        about = ("model", "version", "sha256", "provider")
        self._gauges = [
            Gauge("vae_model_info", "Loaded models; always 1.", about, self._models.items, is_info=True),
        ]

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """One request was answered (or given up: CLIENT_GONE), in so many seconds if they were measured."""
        if seconds is None:
            self._requests.tally(route, method, str(status)).count()
            return
        try:
            counter, duration = self._of_requests[route, method, status]
        except KeyError:
            counter, duration = self._requests.tally(route, method, str(status)), self._duration.tally(route)
            self._of_requests[route, method, status] = counter, duration
        counter.count()
        duration.observe(seconds)
        self._since()

    def batch_observers(self, model: str, graph: str) -> tuple[Callable[[float], None], Callable[[int, float], None]]:
        """For one batcher: what to call with a queue wait, and with the rows and seconds of a run."""
        wait, inference, size = (family.tally(model, graph) for family in (self._wait, self._inference, self._batch))

        def ran(rows: int, seconds: float) -> None:
            size.observe(rows)
            inference.observe(seconds)
            self._since()

        return wait.observe, ran

    def _since(self) -> None:
        # Everything that is observed is part of a request or of a run.
        self._unsorted += 1
        if self._unsorted >= _UNSORTED:
            self._unsorted = 0
            for family in self._families:
                family.sort_in()

    def codec_observers(self, stage: str) -> tuple[Callable[[float], None], Callable[[float], None]]:
        """For one stage: what to call with the wait for a thread, and with the seconds of work."""
        return self._codec_wait.tally(stage).observe, self._codec.tally(stage).observe

    def rejected(self, reason: str) -> None:
        self._rejections.tally(reason).count()

    def model_loaded(self, model: str, version: str, sha256: str, provider: str) -> None:
        self._models[model, version, sha256, provider] = 1

    def watch(
        self,
        name: str,
        documentation: str,
        labels: Labels,
        readings: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        """A gauge whose values ``readings`` tells."""
        self._gauges.append(Gauge(name, documentation, labels, readings))

    def snapshot(self) -> Snapshot:
        """Everything of now."""
        return {
            "process": os.getpid(),
            "cpu_seconds": time.process_time(),
            "tallies": {family.name: family.numbers() for family in self._families},
            "gauges": {
                gauge.name: [(labels, [number]) for labels, number in gauge.readings()] for gauge in self._gauges
            },
        }

    async def share(self) -> None:
        """Tell the colleagues once a second, until cancelled; at once if there are none."""
        if self._colleagues is not None:
            await self._colleagues.keep_telling(self.snapshot)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes: the same from whichever process it happens to ask, but for a second."""
        from app.exposition import text

        own, told = self.snapshot(), list[Snapshot]()
        if self._colleagues is not None:
            self._colleagues.tell(own)  # what was scraped once must be there in the next scrape, whoever is asked
            told = cast(list[Snapshot], self._colleagues.told())
        return text(self._families, self._gauges, [own, *told])
