"""OpenTelemetry traces through FastAPI's own support: a span for each request, and in it one for each of its stages.

Everything is off unless the setting ``telemetry`` is on. Where to send spans, and how many of them, is said by
OpenTelemetry's own ``OTEL_*`` variables.
"""

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ConfigurationError
from app.notes import PROBES
from app.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_PROTOCOL = "http/protobuf"
_NO_SPAN = nullcontext()


def config(settings: Settings) -> "TelemetryConfig":
    """What FastAPI is to do. Metrics are Prometheus's here; and logs stay logs, for FastAPI's would hold exceptions."""
    root = settings.root_path

    def is_left_out(scope: MutableMapping[str, Any]) -> bool:
        return scope.get("method") == "OPTIONS" or scope.get("path", "").removeprefix(root) in PROBES

    return {
        "tracing": settings.telemetry,
        "metrics": False,
        "logs": False,
        "auto_configure": settings.telemetry,
        "exclude": is_left_out,
    }


def traced(app: ASGIApp, settings: Settings) -> ASGIApp:
    """``app`` within a FastAPI that does nothing but trace what passes."""
    from fastapi import FastAPI

    class Within:
        def __init__(self, _: ASGIApp) -> None:
            pass

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

    shell = FastAPI(openapi_url=None, telemetry=config(settings))
    shell.add_middleware(Within)
    return shell


def prepare(settings: Settings, environment: MutableMapping[str, str]) -> None:
    """Raises ConfigurationError if traces are wanted and could not be sent: FastAPI would go on without them.

    Sets what the environment leaves open: a name for the service, and times and amounts that let the server end within
    its grace even where the collector hangs.
    """
    if not settings.telemetry:
        return
    if not all(map(_is_installed, _PACKAGES)):
        raise ConfigurationError(
            "telemetry needs more packages: pip install 'latentserve[telemetry]' (of an image: EXTRAS=telemetry)"
        )
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        raise ConfigurationError("telemetry is on, and OTEL_SDK_DISABLED turns it off: leave out one of them")
    if environment.get("OTEL_TRACES_EXPORTER") not in (None, "", "otlp"):
        raise ConfigurationError("OTEL_TRACES_EXPORTER must be otlp: traces are sent in no other way")
    name, endpoint = _first(environment, _ENDPOINTS)
    if not endpoint:
        raise ConfigurationError(f"telemetry needs {_ENDPOINTS[-1]}, the address of a collector: http://HOST:4318")
    if not _is_address(endpoint):
        raise ConfigurationError(f"{name} is no address of the form http://HOST:PORT")
    name, protocol = _first(environment, _PROTOCOLS)
    if protocol not in ("", _PROTOCOL):
        raise ConfigurationError(f"{name} must be {_PROTOCOL}: no other protocol is spoken here")
    if "service.name=" not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        environment.setdefault("OTEL_SERVICE_NAME", "latentserve")
    if not _first(environment, _TIMEOUTS)[1]:
        environment[_TIMEOUTS[0]] = "2"
    environment.setdefault("OTEL_BSP_MAX_QUEUE_SIZE", "1024")


def spans(settings: Settings) -> Callable[..., AbstractContextManager[object]]:
    """What to put around one stage of a request: its span if requests are traced, else something that costs nothing."""
    module = spans_module(settings)
    return _no_span if module is None else module.span


def spans_module(settings: Settings) -> ModuleType | None:
    """`app.spans` if requests are traced. OpenTelemetry is not even loaded if they are not."""
    if not settings.telemetry:
        return None
    from app import spans

    return spans


def _no_span(name: str, **attributes: int) -> AbstractContextManager[object]:
    return _NO_SPAN


def _is_address(text: str) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # a bracket or a port that is none
        return False


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these variables that is set, and its value; two empty texts if none is."""
    return next(((name, environment[name]) for name in names if environment.get(name)), ("", ""))
