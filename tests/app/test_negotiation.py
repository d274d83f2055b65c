"""Accept: specificity, then quality, then the server's own order."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import NotAcceptable
from app.negotiation import FORMATS, GIF, JSON, NPY, PNG, WEBP, choose

OFFERED = (PNG, JSON, NPY, WEBP)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, PNG),
        ("", PNG),
        ("*/*", PNG),
        ("application/json", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/*", JSON),
        ("image/*", PNG),
        ("image/*;q=0.8, application/x-npy;q=0.9", NPY),
        ("image/png;q=0.1, */*;q=0.5", JSON),
        ("image/png;q=0, image/*", WEBP),
        ("*/*;q=0.1, image/png;q=0", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", PNG),
        ("application/json;profile=x;q=1.0, image/png;q=0.5", JSON),
        ("garbage, ;;;, application/json", JSON),
        ("image/webp;q=2, application/json;q=0.1", JSON),
    ],
)
def test_the_best_type_wins(accept: str | None, chosen: str) -> None:
    assert choose(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/png", "*/*;q=0", "png", ",,,", "image/png;q=0"])
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        choose(accept, OFFERED)


def test_a_long_header_is_not_cut_within_a_type() -> None:
    padding = "text/html;" + "x" * 1010 + ","
    assert choose(padding + "image/webp, image/png;q=0", OFFERED) == WEBP
    assert choose(padding[1:] + "image/webp;q=0.5, application/x-npy;q=0.9", OFFERED) == NPY
    with pytest.raises(NotAcceptable):
        choose("text/html," * 100 + "image/webp", OFFERED)


def test_format_overrides_accept() -> None:
    assert choose("text/html", OFFERED, "npy") == NPY
    with pytest.raises(NotAcceptable):
        choose("*/*", OFFERED, "gif")
    assert FORMATS["gif"] == GIF


@given(st.lists(st.tuples(st.sampled_from(OFFERED), st.integers(1, 1000)), min_size=1, unique_by=lambda pair: pair[0]))
def test_order_of_quality_is_respected(pairs: list[tuple[str, int]]) -> None:
    accept = ", ".join(f"{kind};q={q / 1000:.3f}" for kind, q in pairs)
    best = max(q for _, q in pairs)
    assert choose(accept, OFFERED) == next(kind for kind in OFFERED if (kind, best) in pairs)


@given(st.text(max_size=200))
def test_any_header_is_survived(accept: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert choose(accept, OFFERED) in OFFERED
