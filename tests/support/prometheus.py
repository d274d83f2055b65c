"""A Prometheus of its own, with the configuration that ships, and what Grafana would ask it."""

import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.programs import needs

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "docker" / "prometheus"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "latentserve.json"
PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Query:
    """One query of the dashboard."""

    panel: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.panel}: {self.expr}"


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    """The panels that show something: all but the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Everything that the dashboard asks, in its order."""
    return [
        Query(panel["title"], target["expr"], target.get("instant", False))
        for panel in panels()
        for target in panel["targets"]
    ]


def variables() -> dict[str, tuple[str, str]]:
    """The variables that are asked for: name -> (selector, label)."""
    found = {}
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert asked is not None, variable
            found[variable["name"]] = (asked[1], asked[2])
    return found


def alerts() -> list[dict[str, Any]]:
    """The rules of alerts.yml."""
    document = yaml.safe_load((CONFIGURATION / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def substituted(expr: str, values: Mapping[str, list[str]], interval: str) -> str:
    """An expression as Grafana sends it when "All" is chosen: the values in a group, escaped for a quoted regex."""

    def group(match: re.Match[str]) -> str:
        escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value) for value in values[match[1]]]
        return f"({'|'.join(escaped)})"

    return re.sub(r"\$(\w+)", group, expr.replace("$__rate_interval", interval))


class Prometheus:
    """A running one. It scrapes and evaluates every second; its key is read anew for every scrape."""

    def __init__(self, client: httpx.Client, key_file: Path) -> None:
        self._client, self.key_file = client, key_file

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of its API."""
        response = self._client.get(f"/api/v1/{path}", params=parameters)
        document = response.json()
        assert document["status"] == "success", (parameters, document)
        return document["data"]

    def health(self) -> tuple[str, str]:
        """Of the server that it scrapes: up, down or unknown, and the last error."""
        for target in self.get("targets")["activeTargets"]:
            return target["health"], target["lastError"]
        return "unknown", ""  # it has not read its configuration yet

    def series(self, query: Query, expr: str) -> list[dict[str, str]]:
        """The labels of the series that an expression gives, now or of late, of those with a number in them."""
        if query.instant:
            data = self.get("query", query=expr)
        else:
            now = time.time()
            data = self.get("query_range", query=expr, start=now - 20, end=now, step=1)
        return [
            each["metric"]
            for each in data["result"]
            if any(math.isfinite(float(value)) for _, value in each.get("values", [each.get("value")]))
        ]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus on what ships, with another target and shorter intervals; its files go into ``folder``."""
    program = needs("prometheus")
    configuration = folder / "etc"
    shutil.copytree(CONFIGURATION, configuration)
    file = configuration / "prometheus.yml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    document["global"] = dict.fromkeys(document["global"], "1s")
    (job,) = document["scrape_configs"]
    del job["dns_sd_configs"]  # it asks a name server, and no name server knows of a test
    job["static_configs"] = [{"targets": [target]}]
    file.write_text(yaml.safe_dump(document), encoding="utf-8")

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "log"
    with log.open("w", encoding="utf-8") as stream, httpx.Client(base_url=f"http://{address}", timeout=30) as client:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: _is_ready(client, process, log))
            yield Prometheus(client, configuration / job["authorization"]["credentials_file"])
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def _is_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], object], lacking: Callable[[], object] = str) -> None:
    """Ask again and again, for a bounded time, until it is so; ``lacking`` says what was missing if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass: {lacking()}"
        time.sleep(0.1)
