"""What is written with eight decimals is JSON of the same shape, and reads as the pixels it was made of."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app import decimals
from app.decimals import unit_json

ONE = np.float32(1)
BELOW_ONE = np.nextafter(ONE, np.float32(0))
SMALLEST = np.nextafter(np.float32(0), ONE)
EDGES = [
    0,
    -0.0,
    1,
    SMALLEST,
    BELOW_ONE,
    0.999999999,
    0.5,
    np.nextafter(np.float32(0.5), np.float32(0)),
    1e-8,
    5e-9,
    0.1,
]


def check(pixels: NDArray[np.float32]) -> None:
    """The text is that of the shape with ten characters a number, and the values are the nearest of eight decimals."""
    text = unit_json(pixels)
    read = np.array(json.loads(text))
    assert read.shape == pixels.shape
    assert text == _plain(pixels.tolist()).encode()
    assert np.abs(read - pixels).max() <= 5e-9 + 1e-16
    high = pixels >= 0.5
    np.testing.assert_array_equal(read.astype(np.float32)[high], pixels[high])


def _plain(values: object) -> str:
    if isinstance(values, list):
        return "[" + ",".join(map(_plain, values)) + "]"
    return f"{abs(float(str(values))):.8f}"


@pytest.mark.parametrize(
    "shape", [(1,), (7,), (2, 3), (3, 1), (1, 1, 1, 1), (1, 28, 28, 1), (3, 5, 4, 3), (2, 1, 3, 1, 2), (30, 28, 28, 1)]
)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(np.random.default_rng(0).random(shape, np.float32))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_any_value_is_rounded_to_the_nearest(values: list[float]) -> None:
    check(np.array(values, np.float32))
    check(np.array(values, np.float32).reshape(-1, 1, 1, 1))


def test_edges() -> None:
    check(np.array(EDGES, np.float32))
    assert unit_json(np.array([1, 0, -0.0, SMALLEST, BELOW_ONE], np.float32)) == (
        b"[1.00000000,0.00000000,0.00000000,0.00000000,0.99999994]"
    )


def test_every_float32_near_one_and_near_a_half() -> None:
    half, one = np.array([0.5, 1], np.float32).view(np.uint32)
    for start in (half - np.uint32(5000), one - np.uint32(9999)):
        check(np.arange(start, start + np.uint32(10_000), dtype=np.uint32).view(np.float32).reshape(10, 1000))


@pytest.mark.parametrize("together", [1, 7, 60, 61, 200])
def test_a_batch_is_the_same_however_it_is_divided(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).random((5, 5, 4, 3), np.float32)
    whole = unit_json(pixels)
    monkeypatch.setattr(decimals, "_TOGETHER", together)
    assert unit_json(pixels) == whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0000001, -1e-9, -SMALLEST, 2])
@pytest.mark.parametrize("place", [0, 11, -1])
def test_what_is_no_pixel_is_refused(value: float, place: int) -> None:
    pixels = np.full((4, 3, 2, 1), 0.5, np.float32)
    pixels.reshape(-1)[place] = value
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        unit_json(pixels)


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28, 1), (2, 0, 3)])
def test_an_empty_array_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        unit_json(np.empty(shape, np.float32))


def test_an_array_need_not_be_contiguous() -> None:
    pixels = np.random.default_rng(2).random((4, 3, 6, 5), np.float32)
    for view in (
        pixels.transpose(0, 2, 3, 1),
        pixels.T,
        pixels[::2, :, ::-1, 1:4],
        np.broadcast_to(pixels[0], (4, 3, 6, 5)),
    ):
        assert unit_json(view) == unit_json(np.ascontiguousarray(view))


def test_the_array_and_what_was_written_before_are_left_as_they_were() -> None:
    pixels = np.random.default_rng(3).random((2, 3), np.float32)
    pixels.setflags(write=False)
    before = unit_json(pixels)
    kept = bytes(bytearray(before))
    unit_json(1 - pixels)
    assert before == kept == unit_json(pixels)


def test_orjson_takes_it_as_a_fragment() -> None:
    pixels = np.random.default_rng(4).random((3, 5, 4, 3), np.float32)
    fields = {"n": np.arange(2), "pixels": orjson.Fragment(unit_json(pixels)), "last": None}
    text = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    assert text == b'{"n":[0,1],"pixels":' + unit_json(pixels) + b',"last":null}'
    np.testing.assert_allclose(orjson.loads(text)["pixels"], pixels, rtol=0, atol=5.001e-9)
