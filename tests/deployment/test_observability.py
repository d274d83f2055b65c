"""What ships for Prometheus and Grafana: valid, about metrics that the server has, and with something to show."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.operations import OPERATIONS
from tests.app.client import grey, npy, picture, running
from tests.support.programs import needs
from tests.support.prometheus import (
    CONFIGURATION,
    DASHBOARD,
    ROOT,
    Prometheus,
    alerts,
    dashboard,
    panels,
    prometheus,
    queries,
    substituted,
    variables,
    wait_for,
)
from tests.support.server import serving
from tests.support.tiny import write_tiny_bundle

PROVISIONING = ROOT / "docker" / "grafana" / "provisioning"
LARGEST = 100_000  # bytes of a body

# Labels that Prometheus itself puts on what it scrapes, and metrics that it makes.
ITS_LABELS = {"job", "instance"}
ITS_METRICS: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate"}}

PNG = {"content-type": "image/png"}
NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}

# Every operation, light and heavy, and every way to fail that needs no overload: status, method, path, the rest.
TRAFFIC: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "POST", "/encode", {"content": picture(grey(1)[0]), "headers": PNG}),
    (200, "POST", "/encode?samples=2&seed=1", {"content": npy(grey(40)), "headers": NPY}),
    (200, "POST", "/score?k=8", {"content": picture(grey(1)[0]), "headers": PNG}),
    (200, "POST", "/decode", {"content": npy(np.zeros((3, 2))), "headers": NPY}),
    (200, "POST", "/reconstruct", {"content": picture(grey(1)[0]), "headers": PNG}),
    (200, "GET", "/sample?n=20&seed=1", {}),
    (200, "POST", "/interpolate?format=gif", {"json": {"points": [{"latent": [0, 0]}, {"latent": [1, 1]}]}}),
    (200, "POST", "/traverse", {"json": {"dimension": 0}}),
    (200, "GET", "/models/tiny", {}),
    (404, "GET", "/nowhere", {}),
    (404, "GET", "/sample?model=other", {}),
    (422, "GET", "/sample?n=0", {}),
    (413, "POST", "/encode", {"content": b"x" * (LARGEST + 1), "headers": PNG}),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", scores=True)


@pytest.fixture(scope="module")
def labels(tiny: Path) -> dict[str, set[str]]:
    """What the server exposes, and Prometheus beside it: the name of every series with the names of its labels."""

    async def exposition() -> str:
        async with running(tiny, max_body_bytes=LARGEST) as client:
            for _, method, path, rest in TRAFFIC:
                await client.request(method, path, **rest)
            return (await client.get("/metrics")).text

    found = {name: set(its) for name, its in ITS_METRICS.items()}
    for family in text_string_to_metric_families(asyncio.run(exposition())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def parts(expr: str) -> tuple[dict[str, set[str]], set[str] | None]:
    """What an expression asks for: metrics, each with the labels that it is selected by, and what it is grouped by."""
    expr = re.sub(r'"(?:\\.|[^"\\])*"', '""', expr)
    groups = [set(re.findall(r"\w+", listed)) for listed in re.findall(r"\bby \(([^)]*)\)", expr)]
    expr = re.sub(r"\b(?:by|on) \([^)]*\)|\[[^\]]*\]", "", expr)
    asked: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b([A-Za-z_]\w*)\b(?!\s*\()(?:\{([^}]*)\})?", expr):
        if name not in ("and", "or"):
            asked.setdefault(name, set()).update(re.findall(r"(\w+) *(?:=|!)", selector))
    return asked, set().union(*groups) if groups else None


EXPRESSIONS = [
    *[(query.panel, query.expr) for query in queries()],
    *[(rule["alert"], rule["expr"]) for rule in alerts()],
]


@pytest.mark.parametrize(("name", "expr"), EXPRESSIONS)
def test_only_metrics_and_labels_that_exist(labels: dict[str, set[str]], name: str, expr: str) -> None:
    asked, groups = parts(expr)
    assert asked
    assert set(asked) <= set(labels)
    for metric, selected in asked.items():
        assert selected <= labels[metric] | ITS_LABELS, metric
        assert (groups or set()) <= labels[metric] | ITS_LABELS or metric == "ALERTS", metric


def test_variables_and_legends_name_labels_that_exist(labels: dict[str, set[str]]) -> None:
    assert set(variables()) == {"route", "model"}
    for selector, label in variables().values():
        ((metric, selected),) = parts(selector)[0].items()
        assert selected | {label} <= labels[metric]
    told = [
        *[
            (target["expr"], target.get("legendFormat", ""), r"\{\{(\w+)\}\}")
            for each in panels()
            for target in each["targets"]
        ],
        *[(rule["expr"], text, r"\$labels\.(\w+)") for rule in alerts() for text in rule["annotations"].values()],
    ]
    for expr, text, pattern in told:
        asked, groups = parts(expr)
        left = ITS_LABELS.union(*[labels[metric] for metric in asked]) if groups is None else groups
        assert set(re.findall(pattern, text)) <= left, text


def test_every_metric_is_shown(labels: dict[str, set[str]]) -> None:
    """What nobody looks at need not be measured."""
    shown = {re.sub(r"_(bucket|sum|count)$", "", metric) for _, expr in EXPRESSIONS for metric in parts(expr)[0]}
    measured = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in labels if name.startswith("vae_")}
    assert {name for name in measured if f"{name}_total" not in measured} <= shown


def test_the_dashboard_is_complete() -> None:
    document = dashboard()
    everything = document["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in panels():
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"]["query"] == variable["definition"]
    used = set(re.findall(r"\$\{?(\w+)", " ".join(query.expr for query in queries())))
    assert used == {"route", "model", "__rate_interval"}


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def mounted(service: str, path: str) -> Path:
    """What compose.yaml, without any variable set, puts at this path of a service, which cannot write it."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    found = []
    for volume in compose["services"][service]["volumes"]:
        if isinstance(volume, str):
            source, target, *mode = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", volume).split(":")
            read_only = "ro" in mode
        else:
            source = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", volume.get("source", ""))
            target, read_only = volume["target"], volume.get("read_only", False)
        if path == target or path.startswith(target + "/"):
            found.append((len(target), ROOT / source / path[len(target) + 1 :], read_only))
    _, file, read_only = max(found)
    assert read_only, path
    return file


def test_compose_mounts_what_is_referred_to() -> None:
    shipped = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = shipped["scrape_configs"]
    for name in ("prometheus.yml", *shipped["rule_files"], job["authorization"]["credentials_file"]):
        file = mounted("prometheus", f"/etc/prometheus/{name}")
        assert file.samefile(CONFIGURATION / name)
    assert (CONFIGURATION / job["authorization"]["credentials_file"]).read_bytes() == b"", "a key was committed"
    (service,) = job["dns_sd_configs"]
    (name,) = service["names"]
    ports = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"][name]["ports"]
    assert [port.rpartition(":")[2] for port in ports] == [str(service["port"])]

    at = "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load(mounted("grafana", f"{at}/dashboards/latentserve.yml").read_text("utf-8"))["providers"]
    assert mounted("grafana", f"{provider['options']['path']}/latentserve.json").samefile(DASHBOARD)
    (source,) = yaml.safe_load(mounted("grafana", f"{at}/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    (variable,) = [each for each in dashboard()["templating"]["list"] if each["type"] == "datasource"]
    assert variable["query"] == source["type"]
    assert variable["current"] == {"text": source["name"], "value": source["uid"]}
    assert source["jsonData"]["timeInterval"] == shipped["global"]["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "--lint=all", "--lint-fatal", "docker/prometheus/prometheus.yml"],
        ["check", "rules", "--lint=all", "--lint-fatal", "docker/prometheus/alerts.yml"],
        ["test", "rules", "tests/deployment/alerts.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool(arguments: list[str]) -> None:
    done = subprocess.run(
        [needs("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = (Path(__file__).parent / "alerts.yml").read_text(encoding="utf-8")
    for rule in alerts():
        assert f'alertname="{rule["alert"]}"' in tried
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.fixture(scope="module")
def watched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Prometheus]]:
    """A client of a server, and a Prometheus that scrapes it with what ships."""
    with (
        serving(tiny, max_body_bytes=LARGEST) as server,
        prometheus(tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{server.port}") as watcher,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield client, watcher


def test_every_query_of_the_dashboard_returns_data(watched: tuple[httpx.Client, Prometheus]) -> None:
    client, watcher = watched
    routes = {path for _, path in OPERATIONS} | {"/models/{name}", "unmatched"}
    lacking: list[object] = []
    # What must be in it, in some series of the panel.
    expected = {
        ("Requests by route", "route"): routes,
        ("Latency by route", "route"): routes,
        ("Errors by status", "status"): {"404", "413", "422"},
        ("Rejections by reason", "reason"): {"too large"},
        ("Inference time", "graph"): {"encoder", "decoder"},
        ("Queue wait", "model"): {"tiny"},
        ("Batch size, distribution", "le"): {"1.0", "+Inf"},
        ("Codec time by stage", "stage"): {"read", "latents", "write"},
        ("Models loaded", "version"): {"1"},
    }

    def everything_is_shown() -> bool:
        for status, method, path, rest in TRAFFIC:
            response = client.request(method, path, **rest)
            assert response.status_code == status, (path, response.text)
        values = {
            name: watcher.get(f"label/{label}/values", **{"match[]": selector})
            for name, (selector, label) in variables().items()
        }
        if any(not found for found in values.values()):
            lacking[:] = [values]
            return False
        shown = {query: watcher.series(query, substituted(query.expr, values, "15s")) for query in queries()}
        seen = {
            (panel, label): {each.get(label) for query in shown if query.panel == panel for each in shown[query]}
            for panel, label in expected
        }
        lacking[:] = [query for query, found in shown.items() if not found]
        lacking.extend((panel, wanted - seen[panel]) for panel, wanted in expected.items() if not wanted <= seen[panel])
        return not lacking and set(values["route"]) == routes and values["model"] == ["tiny"]

    wait_for(everything_is_shown, lambda: lacking)


def test_every_alert_is_evaluated(watched: tuple[httpx.Client, Prometheus]) -> None:
    _, watcher = watched
    wait_for(lambda: watcher.health()[0] == "up")

    def rules() -> dict[str, dict[str, Any]]:
        return {rule["name"]: rule for group in watcher.get("rules")["groups"] for rule in group["rules"]}

    wait_for(lambda: bool(rules()) and all(rule["health"] != "unknown" for rule in rules().values()))
    assert {name: rule["health"] for name, rule in rules().items()} == {rule["alert"]: "ok" for rule in alerts()}
    for rule in alerts():
        watcher.get("query", query=rule["expr"])


def test_a_server_with_keys_is_scraped_with_one_of_them(tiny: Path, tmp_path: Path) -> None:
    with (
        serving(tiny, api_keys="first-key,second-key") as server,
        prometheus(tmp_path, f"127.0.0.1:{server.port}") as watcher,
    ):
        wait_for(lambda: watcher.health()[0] == "down")
        assert "401" in watcher.health()[1]
        watcher.key_file.write_text("second-key\n", encoding="utf-8")
        wait_for(lambda: watcher.health()[0] == "up")
