"""Traces: sent to a collector by a real server, refused where they could not be, and nothing at all where unwanted."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app import tracing
from app.errors import ConfigurationError
from app.settings import Settings
from tests.app.client import NPY, grey, npy
from tests.support.server import serving
from tests.support.tiny import write_tiny_bundle

ON = Settings(telemetry=True)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """The address of an OTLP collector on this machine, and what it gets."""
    got: list[ExportTraceServiceRequest] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collect) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", got
        finally:
            server.shutdown()
            thread.join()


def test_a_server_sends_spans_of_requests_and_their_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = "4bf92f3577b34da6a3ce929d0e0e4736"
    with collector() as (endpoint, got):
        monkeypatch.setenv(ENDPOINT, endpoint)
        bundle = write_tiny_bundle(tmp_path / "tiny")
        with serving(bundle, telemetry="true", access_log="true") as server:
            headers = {**NPY, "traceparent": f"00-{parent}-00f067aa0ba902b7-01"}
            url = f"{server.url}/encode?samples=1&seed=777"
            assert httpx.post(url, content=npy(grey(3)), headers=headers).status_code == 200
            assert httpx.head(f"{server.url}/sample?n=1").status_code == 200
            assert httpx.get(f"{server.url}/nowhere/secret").status_code == 404
            assert httpx.get(f"{server.url}/models/tiny").status_code == 200
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            server.signal()
            assert server.ended()[0] == 0, server.log
    resources = [resource for request in got for resource in request.resource_spans]
    services = [
        item.value.string_value for each in resources for item in each.resource.attributes if item.key == "service.name"
    ]
    assert set(services) == {"latentserve"}
    spans = {span.name: span for each in resources for scope in each.scope_spans for span in scope.spans}
    assert {"POST /encode", "HEAD /sample", "GET /models/{name}", "read", "encoder", "write"} <= spans.keys()
    assert not [span for span in spans.values() if "seed" in str(span) or "secret" in str(span)]
    assert not [name for name in spans if "readyz" in name]
    request = spans["POST /encode"]
    assert request.trace_id.hex() == parent
    assert {item.key: item.value.string_value for item in request.attributes}["http.route"] == "/encode"
    encoder = spans["encoder"]
    assert (encoder.trace_id, encoder.parent_span_id) == (request.trace_id, request.span_id)
    assert {item.key: item.value.int_value for item in encoder.attributes} == {"images": 3}
    assert [line for line in server.log if parent in line and '"app.access"' in line]


def test_a_collector_that_hangs_does_not_outlast_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops a server waits for 40 seconds in all, by compose.yaml."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with serving(write_tiny_bundle(tmp_path / "tiny"), telemetry="true", drain_delay=0) as server:
            with httpx.Client(base_url=server.url) as client:
                for _ in range(700):
                    assert client.get("/models").status_code == 200
            server.signal()
            began = time.monotonic()
            assert server.ended()[0] == 0, server.log
            assert time.monotonic() - began < 30  # it takes 5; it took 50 with what OpenTelemetry sets by itself


def test_no_metrics_and_no_exceptions_are_sent() -> None:
    made = tracing.config(ON)
    assert (made["tracing"], made["metrics"], made["logs"]) == (True, False, False)


def test_probes_are_left_out_below_a_root_path_too() -> None:
    left_out = tracing.config(Settings(telemetry=True, root_path="/vae"))["exclude"]
    assert left_out is not None
    assert left_out({"method": "GET", "path": "/vae/readyz"})
    assert left_out({"method": "OPTIONS", "path": "/vae/encode"})
    assert not left_out({"method": "GET", "path": "/vae/encode"})


def test_traces_that_are_not_wanted_cost_nothing() -> None:
    assert tracing.config(Settings())["tracing"] is False
    environment: dict[str, str] = {}
    tracing.prepare(Settings(), environment)
    assert not environment
    assert tracing.spans_module(Settings()) is None
    span = tracing.spans(Settings())
    assert span("read") is span("write", images=2)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "needs OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({ENDPOINT: "collector:4318"}, "no address"),
        ({ENDPOINT: "http://[::1"}, "no address"),
        ({ENDPOINT: "http://collector:port"}, "no address"),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "console"}, "must be otlp"),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, "must be otlp"),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED"),
        ({ENDPOINT: "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "must be http/protobuf"),
    ],
)
def test_traces_that_could_not_be_sent_are_refused(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        tracing.prepare(ON, environment)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_PACKAGES", ("no_such_package.inside",))
    with pytest.raises(ConfigurationError, match=r"pip install 'latentserve\[telemetry\]'"):
        tracing.prepare(ON, {ENDPOINT: "http://collector:4318"})


def test_the_service_has_a_name() -> None:
    environment = {ENDPOINT: "http://collector:4318"}
    tracing.prepare(ON, environment)
    assert environment["OTEL_SERVICE_NAME"] == "latentserve"
    environment["OTEL_SERVICE_NAME"] = "mine"
    tracing.prepare(ON, environment)
    assert environment["OTEL_SERVICE_NAME"] == "mine"
    environment = {ENDPOINT: "http://collector:4318", "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine"}
    tracing.prepare(ON, environment)
    assert "OTEL_SERVICE_NAME" not in environment
