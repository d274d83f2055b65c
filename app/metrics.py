"""What Prometheus sees of one server. Every app has its own registry, and every label has few values."""

from collections.abc import Callable, Iterable
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
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
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Depth(Collector):
    """Queue lengths, asked when scraped, so that no request pays for them."""

    def __init__(self, depths: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        self._depths = depths

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "vae_queue_depth", "Images or latents waiting for a graph.", labels=["model", "graph"]
        )
        for model, graph, depth in self._depths():
            family.add_metric([model, graph], depth)
        return [family]


class Metrics:
    """The instruments, and the few lines of code that turn events into observations."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("vae_requests", "Requests answered.", ["route", "method", "status"], registry=registry)
        self._duration = Histogram(
            "vae_request_duration_seconds", "From the request's head to the answer's last byte.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._wait = Histogram(
            "vae_queue_wait_seconds", "Time in a queue before computation.", ["model", "graph"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._inference = Histogram(
            "vae_inference_seconds", "One run of a graph on a batch.", ["model", "graph"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batch = Histogram(
            "vae_batch_size", "Images or latents in one run of a graph.", ["model", "graph"],
            buckets=_ROWS, registry=registry,
        )  # fmt: skip
        self._codec = Histogram(
            "vae_codec_seconds", "Reading bodies, making latents, writing answers.", ["stage"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._codec_wait = Histogram(
            "vae_codec_wait_seconds", "Time until a codec thread was free.", ["stage"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._rejections = Counter(
            "vae_rejections", "Requests turned away or given up, by reason.", ["reason"], registry=registry
        )
        self._models = Gauge(
            "vae_model_info", "Loaded models; always 1.", ["model", "version", "sha256", "provider"], registry=registry
        )
        self.receiving = Gauge("vae_requests_receiving", "Requests whose body is awaited.", registry=registry)
        self.in_progress = Gauge("vae_requests_in_progress", "Requests received and not answered.", registry=registry)
        # Looking a label up costs more than the observation itself.
        self._request = lru_cache(maxsize=4096)(self._requests.labels)
        self._request_duration = lru_cache(maxsize=256)(self._duration.labels)

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """One request was answered (or given up: CLIENT_GONE), in so many seconds if they were measured."""
        self._request(route, method, str(status)).inc()
        if seconds is not None:
            self._request_duration(route).observe(seconds)

    def batch_observers(self, model: str, graph: str) -> tuple[Callable[[float], None], Callable[[int, float], None]]:
        """For one batcher: what to call with a queue wait, and with the rows and seconds of a run."""
        wait, inference, size = (family.labels(model, graph) for family in (self._wait, self._inference, self._batch))

        def ran(rows: int, seconds: float) -> None:
            size.observe(rows)
            inference.observe(seconds)

        return wait.observe, ran

    def codec_observers(self, stage: str) -> tuple[Callable[[float], None], Callable[[float], None]]:
        """For one stage: what to call with the wait for a thread, and with the seconds of work."""
        return self._codec_wait.labels(stage).observe, self._codec.labels(stage).observe

    def rejected(self, reason: str) -> None:
        self._rejections.labels(reason).inc()

    def model_loaded(self, model: str, version: str, sha256: str, provider: str) -> None:
        self._models.labels(model, version, sha256, provider).set(1)

    def watch_depths(self, depths: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        """Report queue lengths from ``depths``: (model, graph, rows) each."""
        self.registry.register(_Depth(depths))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
