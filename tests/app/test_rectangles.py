"""The short way for JSON numbers gives what the long way gives, or nothing."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import rectangles
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


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_many_numbers_are_read_as_few_are(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).random((10, 28, 28)).round(4)
    texts = [
        body(values.tolist()) for values in (numbers, numbers - 0.5, numbers.round(), np.round(numbers).astype(int))
    ]
    monkeypatch.setattr(rectangles, "_MANY", numbers.size + step)
    for text in texts:
        found = read_rectangle(text, "images", (28, 28), most=10)
        assert found is not None
        np.testing.assert_array_equal(found, np.array(json.loads(text)["images"]).astype(np.float32))
        assert read_rectangle(text, "latents", (28, 28), most=10) is None
        assert read_rectangle(text, "images", (28, 28, 1), most=10) is None
        assert read_rectangle(text, "images", (28, 28), most=9) is None
        assert read_rectangle(text + b"]", "images", (28, 28), most=10) is None
        assert read_rectangle(text.replace(b"images", b'images": 1, "images'), "images", (28, 28), most=10) is None


def test_each_way_is_taken_for_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(rectangles, "_MANY", 4)
    monkeypatch.setattr(rectangles, "_LARGE", 0)
    monkeypatch.setattr(rectangles, "read_decimals", lambda text, *_, **__: taken.append(text))
    texts = [body(items) for items in ([[[0.5, 1.0]]], [[[0.5, 1.0]]] * 2, [[[0.5, -1.0]]] * 2)]
    for text in texts:
        assert read_rectangle(text, "images", (1, 2), most=3) is not None
    assert taken == texts[1:2]
