"""The spans of a request that is traced. Importing this imports OpenTelemetry; `tracing.spans_module` knows when."""

from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace

_NO_SPAN = nullcontext()
_REDACTED = "REDACTED"


def span(name: str, **attributes: int) -> AbstractContextManager[object]:
    """Around one stage of a request that is traced; around nothing at all in any other."""
    if not trace.get_current_span().is_recording():
        return _NO_SPAN
    # What a client did wrong is no error of the server, and the request's own span has the status of its answer.
    return trace.get_tracer("latentserve").start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    )


def redact_span() -> None:
    """Take out of the request's span what the client sent: FastAPI has put its path and its query there."""
    current = trace.get_current_span()
    if current.is_recording():
        current.set_attributes({"url.path": _REDACTED, "url.query": _REDACTED})


def name_span(method: str, route: str) -> None:
    """Name the request's span after its route, as FastAPI does for those that it leads itself."""
    current = trace.get_current_span()
    if current.is_recording():
        current.update_name(f"{method} {route}")
        current.set_attribute("http.route", route)


def trace_id() -> str | None:
    """The id of the trace that this request belongs to, in hexadecimal; None if it is not traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
