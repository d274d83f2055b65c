"""What Prometheus sees of one server. Every app has its own registry, and every label has few values."""

from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.tallies import Family, Labels

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

Readings = Callable[[], Iterable[tuple[Labels, float]]]


class Metrics(Collector):
    """The instruments. Gauges are asked when scraped, so that no request pays for them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)
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
        self._gauges: list[tuple[str, str, Labels, Readings]] = []
        self._models: dict[Labels, float] = {}
        about = ("model", "version", "sha256", "provider")
        self.watch("vae_model_info", "Loaded models; always 1.", about, self._models.items)

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """One request was answered (or given up: CLIENT_GONE), in so many seconds if they were measured."""
        self._requests.tally(route, method, str(status)).count()
        if seconds is not None:
            self._duration.tally(route).observe(seconds)

    def batch_observers(self, model: str, graph: str) -> tuple[Callable[[float], None], Callable[[int, float], None]]:
        """For one batcher: what to call with a queue wait, and with the rows and seconds of a run."""
        wait, inference, size = (family.tally(model, graph) for family in (self._wait, self._inference, self._batch))

        def ran(rows: int, seconds: float) -> None:
            size.observe(rows)
            inference.observe(seconds)

        return wait.observe, ran

    def codec_observers(self, stage: str) -> tuple[Callable[[float], None], Callable[[float], None]]:
        """For one stage: what to call with the wait for a thread, and with the seconds of work."""
        return self._codec_wait.tally(stage).observe, self._codec.tally(stage).observe

    def rejected(self, reason: str) -> None:
        self._rejections.tally(reason).count()

    def model_loaded(self, model: str, version: str, sha256: str, provider: str) -> None:
        self._models[model, version, sha256, provider] = 1

    def watch(self, name: str, documentation: str, labels: Labels, readings: Readings) -> None:
        """A gauge whose values ``readings`` tells: the labels and the number of each."""
        self._gauges.append((name, documentation, labels, readings))

    def collect(self) -> Iterable[Metric]:
        """What the registry asks for at a scrape."""
        for family in self._families:
            yield family.exposed([family.snapshot()])
        for name, documentation, labels, readings in self._gauges:
            gauge = GaugeMetricFamily(name, documentation, labels=labels)
            for values, number in readings():
                gauge.add_metric(values, number)
            yield gauge

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
