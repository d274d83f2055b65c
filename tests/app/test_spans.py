"""Spans outside of a request that is traced."""

from app import spans


def test_they_are_nothing_without_a_trace() -> None:
    assert spans.span("read") is spans.span("write", images=2)
    assert spans.trace_id() is None
    spans.redact_span()
    spans.name_span("GET", "/sample")
