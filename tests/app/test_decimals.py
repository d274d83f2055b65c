"""What is written with eight decimals is JSON of the same shape; what is read is what other readers make of it."""

import json
import sys

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app import decimals
from app.decimals import read_decimals, unit_json

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


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
PIECES = [b"", *(bytes([code]) for code in b"0159.,:;[]{}/\\\"'-+eExnt#_ \t\n\r\0\x10\x7f\x80\xac\xae\xb5\xff")]
STYLES = st.sampled_from([(",", ":"), (", ", ": "), (", ", ":"), (",", ": ")])


def nested(numbers: list[str], shape: tuple[int, ...], style: tuple[str, str] = (",", ":")) -> bytes:
    """The body of these numbers, as they are written, in items of a shape."""
    for size in reversed(shape):
        numbers = [f"[{style[0].join(numbers[i : i + size])}]" for i in range(0, len(numbers), size)]
    return f'{{"images"{style[1]}[{style[0].join(numbers)}]}}'.encode()


def read(text: bytes, shape: tuple[int, ...], most: int = 4) -> NDArray[np.float32] | None:
    return read_decimals(text, "images", shape, most=most)


@st.composite
def bodies(draw: st.DrawFn, most_decimals: int = 20) -> tuple[bytes, tuple[int, ...]]:
    """One that is read, unless it has tiny numbers of many digits."""
    shape = draw(SHAPES)
    count = draw(st.integers(1, 4)) * int(np.prod(shape))
    decimals = st.text("0123456789", min_size=1, max_size=draw(st.integers(1, most_decimals)))
    numbers = st.builds("{}.{}".format, st.sampled_from("0000019"), decimals)
    return nested(draw(st.lists(numbers, min_size=count, max_size=count)), shape, draw(STYLES)), shape


@given(bodies(14))
def test_up_to_fourteen_decimals_are_read_as_others_do(case: tuple[bytes, tuple[int, ...]]) -> None:
    text, shape = case
    found = read(text, shape)
    expected = np.array(json.loads(text)["images"]).astype(np.float32)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected, strict=True)


@given(bodies())
def test_more_decimals_are_read_to_the_last_bit_or_not_at_all(case: tuple[bytes, tuple[int, ...]]) -> None:
    text, shape = case
    found = read(text, shape)
    if found is not None:
        np.testing.assert_array_max_ulp(found, np.array(json.loads(text)["images"], np.float64).astype(np.float32), 1)


@given(bodies(), st.data())
def test_what_json_refuses_or_reads_otherwise_is_never_read(
    case: tuple[bytes, tuple[int, ...]], data: st.DataObject
) -> None:
    text, shape = bytearray(case[0]), case[1]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from(PIECES))
    same_as_json(bytes(text), shape)


@given(bodies(), st.data())
def test_what_has_parts_of_it_moved_is_never_read_otherwise_than_json(
    case: tuple[bytes, tuple[int, ...]], data: st.DataObject
) -> None:
    text, shape = case
    a, b, c = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=3, max_size=3)))
    same_as_json(text[:a] + text[b:c] + text[a:b] + text[c:], shape)


def same_as_json(text: bytes, shape: tuple[int, ...]) -> None:
    """Nothing is read, or what JSON is, in the shape that was asked for."""
    found = read(text, shape)
    if found is not None:
        document = orjson.loads(text)  # which is stricter than json
        assert document == json.loads(text)
        assert list(document) == ["images"]
        expected = np.array(document["images"], np.float64).astype(np.float32)
        assert found.shape == expected.shape == (len(expected), *shape)
        np.testing.assert_array_max_ulp(found, expected, 1)


PLAIN = b'{"images":[[[0.5,0.25],[1.0,0.75]],[[0.1,0.2],[0.3,0.4]]]}'


def test_one_byte_less_or_more_or_another_at_every_place() -> None:
    assert read(PLAIN, (2, 2)) is not None
    for at in range(len(PLAIN) + 1):
        for byte in PIECES:
            same_as_json(PLAIN[:at] + byte + PLAIN[at:], (2, 2))
            same_as_json(PLAIN[:at] + byte + PLAIN[at + 1 :], (2, 2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0.5,", b"0.5.5,"),
        (b"0.5,", b"0,.5,"),
        (b"0.5,0.25", b"0.5,2.50.25"),
        (b"0.5,0.25", b"0.5 0.25"),
        (b"0.5,0.25", b"0.55 ,.25"),
        (b"0.5,0.25", b"0.5.,025"),
        (b"0.5,0.25", b"0.5,,30.5"),
        (b"0.5,", b".50,"),
        (b"0.5,", b"0x1,"),
        (b"0.5,", b"1,"),
        (b"0.5,", b"1,0,0,"),
        (b"0.5,", "\u0660.\u0665,".encode()),
        (b"[[[0.5", b"[0.[[5"),
        (b"0.25],[1.0", b"0.[25],1.0"),
        (b"0.25],[1.0", b"0.2]5,[1.0"),
        (b"0.25],[1.0", b"0.25,][1.0"),
        (b"0.25],[1.0", b"],[0.251.0"),
        (b"0.25],[1.0", b"0.25,1.0"),
        (b"0.25],[1.0", b"0.25]],[[1.0"),
        (b"0.75]],[[0.1", b"0.75],[0.1"),
        (b"0.75]],[[0.1", b"[0.75]],[0.1"),
        (b",0.25]", b"]"),
        (b",[1.0,0.75]", b""),
        (b"]}", b"]}]}"),
        (b"0.4]]]}", b"0.4]],[]]}"),
        (b"0.4]]]}", b"0.4]]}]"),
        (b"0.4]]]}", b'0.4]]],"images":[]}'),
        (b"0.4]]]}", b'0.4]]],"seed":0.5}'),
        (b"images", b"im0.5ages"),
        (b'":[', b'":0.5['),
        (b'{"images":', b""),
        (PLAIN, b'{"images":[]}'),
        (PLAIN, b'{"images":0.5}'),
        (PLAIN, b'{"images":'),
        (PLAIN, b""),
    ],
)
def test_anything_else_is_not_read(old: bytes, new: bytes) -> None:
    assert PLAIN.count(old) == 1
    assert read(PLAIN.replace(old, new), (2, 2)) is None
    spaced = PLAIN.replace(b",", b", ")
    assert read(spaced, (2, 2)) is not None
    assert read(spaced.replace(old.replace(b",", b", "), new.replace(b",", b", ")), (2, 2)) is None


def test_spaces_are_after_all_commas_or_after_none() -> None:
    for at in range(PLAIN.count(b",")):
        first, *others = PLAIN.split(b",")
        for one, most in ((b",", b", "), (b", ", b","), (b",  ", b", "), (b",\t", b", ")):
            gaps = [one if i == at else most for i in range(len(others))]
            assert read(first + b"".join(gap + part for gap, part in zip(gaps, others, strict=True)), (2, 2)) is None


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 2), (2, 1), (2, 2, 1), (1, 2, 2), (3, 2)])
def test_another_shape_is_not_read(shape: tuple[int, ...]) -> None:
    assert read(PLAIN, shape) is None


def test_more_than_are_asked_for_are_not_read() -> None:
    assert read(PLAIN, (2, 2), most=2) is not None
    assert read(PLAIN, (2, 2), most=1) is None


def test_digits_that_are_dropped_and_would_count_are_not_read() -> None:
    assert read(nested(["0.00000000000000000123"], (1,)), (1,)) is None
    assert read(nested(["0.00000000000000000000"], (1,)), (1,)) is None
    tiny = read(nested(["0.000000000000000123"], (1,)), (1,))
    assert tiny is not None
    assert tiny.tolist() == [[np.float32(1.23e-16)]]
    long = read(nested(["0.5" + "0" * 100, "0.1" + "9" * 100, "0.0"], (3,)), (3,))
    assert long is not None
    np.testing.assert_array_equal(long, np.array([[0.5, 0.2, 0]], np.float32))


def test_words_of_the_other_byte_order_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert read(PLAIN, (2, 2)) is None


@pytest.mark.parametrize("style", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("decimals", [1, 2, 3, 4, 6, 7, 8, 10, 11, 14, 15, 17, None])
def test_many_numbers(decimals: int | None, style: tuple[str, str]) -> None:
    numbers = np.random.default_rng(5).random((30, 28, 28))
    numbers.reshape(-1)[::7] = np.arange(3360) % 256 / 255
    if decimals is not None:
        numbers = numbers.round(decimals)
    numbers[numbers < 1e-4] = 0  # which would have an exponent
    text = json.dumps({"images": numbers.tolist()}, separators=style).encode()
    found = read(text, (28, 28), most=30)
    assert found is not None
    np.testing.assert_array_equal(found, numbers.astype(np.float32))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("together", [1, 7, 60, 61, 200])
def test_many_are_the_same_however_they_are_divided(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(6).random((5, 4, 3), np.float32)
    text = b'{"images":' + unit_json(pixels) + b"}"
    monkeypatch.setattr(decimals, "_TOGETHER", together)
    found = read(text, (4, 3), most=5)
    assert found is not None
    np.testing.assert_array_equal(found, np.array(json.loads(text)["images"], np.float32))
    assert read(text[:-10] + b"x" + text[-9:], (4, 3), most=5) is None
