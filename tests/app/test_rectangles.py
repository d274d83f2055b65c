"""The short way for JSON numbers gives what the long way gives, or nothing."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bodies import number_array
from app.rectangles import read_rectangle

NUMBERS: st.SearchStrategy[object] = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([True, False, None, "1", [], {}, [1]]),
)


def body(items: object) -> bytes:
    return json.dumps({"images": items}).encode()


@given(st.lists(st.lists(st.lists(NUMBERS, max_size=3), max_size=3), max_size=4))
def test_it_agrees_with_the_long_way_or_says_nothing(items: list[list[list[object]]]) -> None:
    found = read_rectangle(body(items), "images", (2, 2), most=3)
    if found is not None:
        assert found.shape == (len(items), 2, 2)
        np.testing.assert_array_equal(found, number_array(items, ""))


@given(
    st.lists(
        st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=2, max_size=2),
        min_size=1,
        max_size=3,
    )
)
def test_it_reads_what_has_the_shape(items: list[list[list[float]]]) -> None:
    for text in (body(items), json.dumps({"images": items}, indent=1).encode(), body(items).replace(b" ", b"")):
        found = read_rectangle(text, "images", (2, 3), most=3)
        assert found is not None
        np.testing.assert_array_equal(found, np.array(items, np.float32))


@pytest.mark.parametrize(
    "text",
    [
        b'{"images": [[[1, 2], [3, 4]]',
        b'{"images": [[[1, 2], [3, 4]]]} x',
        b'{"images": [[[1, ]2, [3, 4]]]}',
        b'{"images": [[[1, 2], [3, true]]]}',
        b'{"images": [[[1, 2], [3, null]]]}',
        b'{"images": [[[1, 2], [3, 4, 5]]]}',
        b'{"images": [[[1, 2], [3]], [[4, 5], [6]]]}',
        b'{"images": [[[1, 2], [3, 1e999]]]}',
        b'{"images": [[[1, 2], [3, NaN]]]}',
        b'{"images": [[[1, 2], [3, 4]]], "images": [[[1, 2], [3, 4]]]}',
        b'{"pictures": [[[1, 2], [3, 4]]]}',
        b'{"images": []}',
        b'{"images": {}}',
        b"[[[1, 2], [3, 4]]]",
        b"",
        body([[[1, 2], [3, 4]]] * 4),
    ],
)
def test_anything_else_is_left_to_the_long_way(text: bytes) -> None:
    assert read_rectangle(text, "images", (2, 2), most=3) is None


def test_what_is_too_large_for_float32_is_left_to_the_long_way() -> None:
    assert read_rectangle(body([[[1, 2], [3, 1e39]]]), "images", (2, 2), most=3) is None
    assert read_rectangle(body([[[1, 2], [3, 10**400]]]), "images", (2, 2), most=3) is None
