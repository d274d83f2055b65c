"""Who takes part: every contender, how it is installed, started and spoken to."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.dialects import V2, Canned, Dialect, Ours, Plain
from benchmarks.environments import ROOT, Installation, of_requirements, of_source, source_at

Role = Literal["ours", "peer", "handmade", "limit"]
"""What a contender is compared as; `report.ROLES` says it to readers."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender is started: its interpreter, its port, the bundle, a folder of its own, the machine's cores."""

    python: Path
    port: int
    bundle: Path
    folder: Path
    cores: int


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A server in one configuration. ``packages`` are those whose versions the report names."""

    name: str
    role: Role
    installation: Installation
    command: Callable[[Place], list[str]]
    dialect: Dialect = field(default_factory=Plain)
    environment: dict[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    note: str = ""
    draws: bool = False
    """It takes and gives pictures: PNG in, PNG out, samples."""
    grows: bool = False
    """Its growth is measured."""
    large: bool = False
    """It takes part with the larger model too."""

    def settings(self, place: Place) -> dict[str, str]:
        """Its environment variables. Nobody reports to anybody while it is measured."""
        quiet = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}
        paths = {"BUNDLE": str(place.bundle), "ANSWERS": str(place.folder / "answers"), "PYTHONPATH": str(ROOT)}
        return quiet | paths | self.environment


def script(module: str, *options: str) -> Callable[[Place], list[str]]:
    """One of the scripts in ``contenders/``; {cores} in its options is the machine's number of cores."""

    def command(place: Place) -> list[str]:
        told = [option.format(cores=place.cores, folder=place.folder) for option in options]
        return [str(place.python), "-m", f"benchmarks.contenders.{module}", "--port", str(place.port), *told]

    return command


def ours(name: str, source: Path = ROOT, options: tuple[str, ...] = (), installation: str = "ours") -> Contender:
    """`vae serve`, as `make serve` starts it."""

    def command(place: Place) -> list[str]:
        vae = str(place.python.with_name("vae"))
        return [vae, "serve", "--model", str(place.bundle), "--port", str(place.port), "--drain-delay", "0", *options]

    return Contender(
        name,
        "ours",
        of_source(installation, source),
        command,
        Ours(),
        {"PYTHONPATH": ""},
        ("onnxruntime",),
        shlex.join(("vae", "serve", *options)),
        draws=True,
        grows=name == "ours",
        large=True,
    )


def peer(name: str, note: str, command: Callable[[Place], list[str]], *packages: str, **more: Any) -> Contender:
    """Another model server. Configurations of one share an environment: what comes before the dash is its name."""
    family = name.partition("-")[0]
    versions = (*packages, "onnxruntime")
    return Contender(name, "peer", of_requirements(family), command, packages=versions, note=note, **more)


def standard() -> list[Contender]:
    """Everybody but earlier commits of ours."""
    mosec = ("--address", "127.0.0.1", "--log-level", "error", "--timeout", "30000", "--workers")
    throughput = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
    return [
        ours("ours", options=("--workers", str(len(os.sched_getaffinity(0))))),  # a process a core, as the peers have
        ours("ours-one-process"),
        peer(
            "mosec",
            "dynamic batching, a worker a core and graph",
            script("mosec_server", *mosec, "{cores}", "--batch", "32"),
            "mosec",
            large=True,
        ),
        peer(
            "mosec-unbatched",
            "no batching, a worker a core and graph",
            script("mosec_server", *mosec, "{cores}"),
            "mosec",
            large=True,
        ),
        peer(
            "litserve",
            "the fast queue, a worker a core and graph, no batching",
            script("litserve_server", "--workers", "{cores}", "--servers", "1"),
            "litserve",
        ),
        peer("bentoml", "routes mounted into a service, a worker a core", script("bentoml_service"), "bentoml"),
        peer(
            "mlserver",
            "custom handlers, in the server's process",
            script("mlserver_runtime", "--workers", "0", "--folder", "{folder}"),
            "mlserver",
        ),
        peer(
            "ray",
            "Serve with HAProxy and its throughput switch, batching, a replica",
            script("ray_serve", "--replicas", "1"),
            "ray",
            environment=throughput,
        ),
        peer(
            "pytriton",
            "Triton, dynamic batching, the binary extension",
            script("pytriton_server", "--instances", "1"),
            "nvidia-pytriton",
            dialect=V2(),
        ),
        peer(
            "fastapi",
            "as its documentation teaches: pydantic, lists, a pool of threads, a process a core",
            script("fastapi_plain", "--workers", "{cores}"),
            "fastapi",
            "uvicorn",
            draws=True,
            large=True,
        ),
        replace(
            peer(
                "fastapi-by-hand",
                "raw bytes, orjson, nothing checked, inference on the event loop, a process a core",
                script("fastapi_by_hand", "--workers", "{cores}"),
                "fastapi",
                "uvicorn",
                draws=True,
                large=True,
            ),
            role="handmade",
        ),
        Contender(
            "bare-asgi",
            "limit",
            of_requirements("bare-asgi"),
            script("bare_asgi", "--workers", "{cores}"),
            Canned(),
            packages=("uvicorn",),
            note="reads the body, answers bytes that lie ready, a process a core",
        ),
    ]


def at_revision(revision: str, options: tuple[str, ...] = ()) -> Contender:
    """Ours as it was at a commit, with that commit's own constraints. Raises Unavailable."""
    short, source = source_at(revision)
    return ours(f"ours@{short}", source, options, f"ours-{short}")
