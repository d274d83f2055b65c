"""What `vae serve` would do here with the same options, looked at without serving: `vae doctor`.

Every line is a finding, and begins with what it means: ``ok``, ``note`` (worth knowing), ``FAIL`` (the server would
not start, or not as asked for).
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from app import tracing
from app.addresses import check_address, in_container, is_exposed
from app.cores import quota, usable_cores
from app.errors import ConfigurationError
from app.options import flag
from app.settings import Settings, unknown_variables
from app.shelf import default_name, open_bundles, runs_at_a_time
from app.workers import check_workers
from model.bundle.errors import BundleError, ModelFault
from model.bundle.onnx_runtime import onnx_runtime
from model.bundle.runtime import Bundle

PACKAGES = ("fastapi", "starlette", "uvicorn", "httptools", "uvloop", "pydantic", "numpy", "pillow")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
LEAST_MEMORY = 256 * 2**20  # a small bundle, the runtime, and a few bodies
"""Below that the engine ends the process, without a word of the server's."""


class Finding(NamedTuple):
    """What was looked at, how it stands, and the words for it."""

    mark: Literal["ok", "note", "FAIL"]
    about: str
    text: str


def examine(settings: Settings, tell: Callable[[str], None]) -> bool:
    """Tell every finding, a line each, as soon as it is made; True if none of them is a failure."""
    sound = True
    for finding in findings(settings):
        tell(f"{finding.mark:<5} {finding.about:<9} {finding.text}")
        sound = sound and finding.mark != "FAIL"
    return sound


def findings(settings: Settings) -> Iterator[Finding]:
    """Versions, machine, providers, bundles, address, keys, traces, limits, in this order."""
    yield from _versions()
    yield from _machine(settings)
    yield from _providers(settings)
    yield from _bundles(settings)
    yield from _network(settings)
    yield from _traces(settings)
    yield from _limits(settings)


def _versions() -> Iterator[Finding]:
    system = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    yield Finding("ok", "version", f"latentserve {metadata.version('latentserve')} on {system}")
    # Not by its package, which has another name with CUDA.
    packages = [f"onnxruntime {onnx_runtime().__version__}", *(f"{name} {_version(name)}" for name in PACKAGES)]
    yield Finding("ok", "packages", ", ".join(packages))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # uvloop is not there on every system
        return "missing"


def _machine(settings: Settings) -> Iterator[Finding]:
    granted = quota()
    limit = "" if granted == float("inf") else f", {granted:g} granted by the control group"
    runs = runs_at_a_time(settings)
    yield Finding(
        "ok",
        "cores",
        f"{os.cpu_count()} in the machine{limit}; {usable_cores()} usable: {settings.workers} workers, "
        f"in each at most {runs} runs of a graph at a time, on {settings.threads} threads each",
    )
    yield from _workers(settings)
    memory = next((text for path in MEMORY_LIMITS if (text := _read(path)).isdigit() and int(text) < 2**60), None)
    if memory is None:
        yield Finding("ok", "memory", "no limit by a control group")
    elif int(memory) < LEAST_MEMORY:
        text = f"at most {int(memory) // 2**20} MiB, which is too little: {LEAST_MEMORY // 2**20} MiB or more"
        yield Finding("FAIL", "memory", text)
    else:
        yield Finding("ok", "memory", f"at most {int(memory) // 2**20} MiB")
    yield Finding("ok", "container", "yes" if in_container() else "no")


def _workers(settings: Settings) -> Iterator[Finding]:
    try:
        check_workers(settings)
    except ConfigurationError as error:
        yield Finding("FAIL", "workers", str(error))
    if settings.workers > usable_cores():
        yield Finding("note", "workers", "more than usable cores: they wait for each other, and each takes memory")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _providers(settings: Settings) -> Iterator[Finding]:
    built = [name.removesuffix("ExecutionProvider") for name in onnx_runtime().get_available_providers()]
    text = f"{settings.provider} is asked for; ONNX Runtime is built with {', '.join(built)}"
    yield Finding("ok", "provider", text)


def _bundles(settings: Settings) -> Iterator[Finding]:
    names: list[str] = []
    try:
        for bundle in open_bundles(settings):
            names.append(bundle.name)
            yield Finding("ok", "bundle", _about(bundle))
            if settings.provider == "cuda" and bundle.provider != "cuda":
                yield Finding("FAIL", "provider", f"CUDA does not work here, and {bundle.name} runs on the CPU")
        yield Finding("ok", "bundle", f"{default_name(settings, names)} answers where no model is named")
    except OSError as error:
        yield Finding("FAIL", "bundle", f"{error.filename}: {error.strerror}")
    except (BundleError, ModelFault) as error:
        yield Finding("FAIL", "bundle", str(error))


def _about(bundle: Bundle) -> str:
    bundle.warm_up()
    began = time.perf_counter()
    bundle.warm_up()
    milliseconds = 1000 * (time.perf_counter() - began)
    image, latent = bundle.manifest.image, bundle.manifest.latent
    return (
        f"{bundle.name}/{bundle.version} in {bundle.folder} is sound, on {bundle.provider}: {image.height} x "
        f"{image.width} x {image.channels} pixels, {latent.dim} latents, {milliseconds:.1f} ms for one image there "
        f"and back, sha256 {bundle.digest}"
    )


def _network(settings: Settings) -> Iterator[Finding]:
    try:
        check_address(settings.host, settings.port)
        yield Finding("ok", "address", f"{settings.host}:{settings.port or 'any port'} is free")
    except OSError as error:
        yield Finding("FAIL", "address", f"{error.filename}: {error.strerror}")
    yield _keys(settings)
    for name, nearest in unknown_variables(os.environ):
        yield Finding("note", "settings", f"{name} is no setting" + (f"; {nearest} is" if nearest else ""))


def _keys(settings: Settings) -> Finding:
    try:
        if keys := settings.all_api_keys():
            return Finding("ok", "keys", f"API keys: {len(keys)}, any of which is taken")
        if not is_exposed(settings):
            return Finding("ok", "keys", "no API keys: whatever runs on this machine is served")
    except OSError as error:
        return Finding("FAIL", "keys", f"{error.filename}: {error.strerror}")
    if in_container():
        return Finding("note", "keys", "no API keys: whoever reaches a published port of this container is served")
    mark: Literal["note", "FAIL"] = "note" if settings.allow_insecure else "FAIL"
    return Finding(mark, "keys", f"{settings.host or 'every address'} is open to other machines: set VAE_API_KEYS")


def _traces(settings: Settings) -> Iterator[Finding]:
    try:
        tracing.prepare(settings, dict(os.environ))
    except ConfigurationError as error:
        yield Finding("FAIL", "traces", str(error))
    else:
        yield Finding("ok", "traces", "sent" if settings.telemetry else "off")


def _limits(settings: Settings) -> Iterator[Finding]:
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            yield Finding("note", "settings", f"{flag(name)} is {_shown(value)}; default: {_shown(field.default)}")
    for name in filter(_is_limit, Settings.model_fields):
        yield Finding(
            "ok", "limits", f"{flag(name)} {getattr(settings, name)}: {Settings.model_fields[name].description}"
        )


def _is_limit(name: str) -> bool:
    return name.startswith(("max_", "drain_")) or name.endswith("_seconds")


def _shown(value: object) -> str:
    if isinstance(value, tuple):  # several values, of which an API key is written as asterisks
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)
