"""Images read at once are those of the long way, and what takes its time is left to a thread."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from app.answers import LIGHT_PIXELS
from app.errors import ServiceError
from app.images import (
    LIGHT_BYTES,
    LIGHT_DECIMALS,
    LIGHT_NUMBERS,
    SMALL_FILE,
    SMALL_SIDE,
    ImageReader,
    read_latents_at_once,
)
from app.negotiation import JPEG, JSON, NPY, PNG
from app.settings import Settings
from model.bundle.manifest import ImageSpec
from tests.app.client import grey, npy, picture

GREY = ImageSpec(height=8, width=8, channels=1)
COLOR = ImageSpec(height=8, width=12, channels=3)
LARGE = ImageSpec(height=SMALL_SIDE, width=SMALL_SIDE, channels=1)


def reader(spec: ImageSpec = GREY, *, refuse: bool = False, **limits: int) -> ImageReader:
    return ImageReader(spec, Settings.model_validate(limits), refuse=refuse)


def colors(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 12, 3), np.uint8)


def unit(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (images / 255).astype(np.float32)


def document(images: NDArray[np.generic]) -> bytes:
    return json.dumps({"images": images.tolist()}).encode()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A part of a PNG file (PNG specification, 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    """For 8 bits of grey."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def pixels(width: int, height: int) -> bytes:
    """All black."""
    return chunk(b"IDAT", zlib.compress(bytes((width + 1) * height), 9))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND")


def with_text(kind: str) -> bytes:
    """A sound small PNG that says something else too."""
    said = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        said.add_itxt("Title", "x", zip=True)
    elif kind == "zTXt":
        said.add_text("Title", "x", zip=True)
    buffer = io.BytesIO()
    profile = b"x" * 200 if kind == "iCCP" else None
    Image.fromarray(grey(1)[0]).save(buffer, "PNG", pnginfo=said, icc_profile=profile)
    assert kind.encode() in buffer.getvalue()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spec", "kind", "body"),
    [
        (GREY, NPY, npy(grey(3))),
        (GREY, NPY, npy(grey(3)[..., None])),
        (GREY, NPY, npy(np.asfortranarray(grey(3)))),
        (GREY, NPY, npy(unit(grey(3)))),
        (GREY, NPY, npy(unit(grey(3))[..., None])),
        (GREY, NPY, npy(np.asfortranarray(unit(grey(3))))),
        (GREY, NPY, npy(unit(grey(3)).astype(">f8"))),
        (GREY, NPY, npy(unit(grey(3)).astype("<f2"))),
        (GREY, NPY, npy(np.repeat(grey(3)[..., None], 3, axis=3))),
        (COLOR, NPY, npy(colors(3))),
        (COLOR, NPY, npy(np.asfortranarray(colors(3)))),
        (COLOR, NPY, npy(unit(colors(3)))),
        (COLOR, NPY, npy(colors(3)[..., 0])),
        (COLOR, NPY, npy(colors(3)[..., :1])),
        (GREY, JSON, document(unit(grey(3)))),
        (GREY, JSON, document(unit(grey(3))[..., None])),
        (GREY, JSON, document(grey(3) // 128)),
        (COLOR, JSON, document(unit(colors(3)))),
        (GREY, PNG, picture(grey(1)[0])),
        (GREY, PNG, picture(grey(1, size=SMALL_SIDE // 2)[0])),
        (GREY, PNG, picture(np.zeros((SMALL_SIDE, SMALL_SIDE), np.uint8))),
        (GREY, PNG, picture(colors(1)[0])),
        (COLOR, PNG, picture(colors(1)[0])),
        (GREY, PNG, png(header(8, 8), pixels(8, 8))),
        (LARGE, NPY, npy(grey(1, size=SMALL_SIDE))),
        (LARGE, PNG, picture(grey(1)[0])),
    ],
)
def test_at_once_is_the_long_way(spec: ImageSpec, kind: str, body: bytes) -> None:
    found = reader(spec).at_once(kind, body)
    assert found is not None
    expected = reader(spec).of_body(kind, kind, body)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (NPY, npy(unit(grey(8, size=8)))[:-1] + b"\0" * LIGHT_BYTES),
        (NPY, npy(np.zeros((2, SMALL_SIDE, SMALL_SIDE)))),
        (NPY, npy(grey(3, size=9))),
        (NPY, npy(grey(3)[0])),
        (JSON, document(unit(grey(3))) + b" " * LIGHT_BYTES),
        (JSON, document(unit(grey(3, size=9)))),
        (JSON, document(unit(colors(1)))),
        (JSON, document(grey(3))),
        (JSON, b'{"images": ["aGk="]}'),
        (JSON, b'{"images": ['),
        (PNG, picture(grey(1)[0]) + bytes(SMALL_FILE)),
        (PNG, picture(np.zeros((8, SMALL_SIDE + 1), np.uint8))),
        (PNG, picture(np.zeros((SMALL_SIDE + 1, 8), np.uint8))),
        (PNG, with_text("zTXt")),
        (PNG, with_text("iTXt")),
        (PNG, with_text("iCCP")),
        (PNG, picture(grey(1)[0], "JPEG")),
        (PNG, b""),
        (JPEG, picture(grey(1)[0], "JPEG")),
        (JPEG, picture(grey(1)[0])),
    ],
)
def test_anything_else_is_left_to_a_thread(kind: str, body: bytes) -> None:
    assert reader().at_once(kind, body) is None


def test_of_plain_decimals_twice_as_many_bytes_are_read_at_once() -> None:
    many = np.round(np.random.default_rng(0).uniform(0.1, 1, (256, 8, 8)), 14)
    body = document(many)
    assert LIGHT_BYTES < len(body) < LIGHT_DECIMALS
    found = reader().at_once(JSON, body)
    assert found is not None
    np.testing.assert_array_equal(found, reader().of_body(JSON, JSON, body), strict=True)
    assert reader().at_once(JSON, body + b" ") is None  # right, and not just plain decimals
    assert reader().at_once(JSON, document(np.ones((256, 8, 8))) + b" " * LIGHT_BYTES) is None


def test_numbers_that_become_objects_are_left_to_a_thread_where_they_are_many_however_short() -> None:
    most = LIGHT_NUMBERS // 64
    enough, more = (document(np.zeros((count, 8, 8), np.uint8)) for count in (most, most + 1))
    plain = document(np.full((most + 1, 8, 8), 0.5))
    assert max(len(more), len(plain)) < LIGHT_BYTES
    read = [reader(max_items=2 * most).at_once(JSON, body) is not None for body in (enough, more, plain)]
    assert read == [True, False, True]
    limits = Settings.model_validate({"max_items": 4 * most})
    latents = [json.dumps({"latents": [[0] * 32] * count}).encode() for count in (2 * most, 2 * most + 1)]
    assert [read_latents_at_once(JSON, body, 32, limits) is None for body in latents] == [False, True]


@pytest.mark.parametrize(
    "body",
    [
        png(chunk(b"tEXt", struct.pack(">II", 8, 8)), header(4096, 4096), pixels(4096, 4000)),
        png(header(8, 8), header(4096, 4096), pixels(4096, 4000)),
        png(header(8, 8), chunk(b"tEXt", b"a\0b"), header(4096, 4096), pixels(4096, 4000)),
        png(chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0) + b"\0"), pixels(8, 8)),
    ],
    ids=["a text first", "two headers", "two headers apart", "a header too long"],
)
def test_a_header_that_may_lie_is_left_to_a_thread(body: bytes) -> None:
    assert len(body) <= SMALL_FILE
    assert reader().at_once(PNG, body) is None


def test_a_model_to_whose_size_much_is_enlarged_is_left_to_a_thread() -> None:
    for height, width in ((256, LIGHT_PIXELS // 256 + 1), (LIGHT_PIXELS // 128 + 1, 128)):
        spec = ImageSpec(height=height, width=width, channels=1)
        assert reader(spec).at_once(PNG, picture(grey(1)[0])) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (NPY, b""),
        (NPY, npy(grey(3))[:-1]),
        (NPY, npy(grey(3)) + b"x"),
        (NPY, npy(np.zeros((0, 8, 8), np.uint8))),
        (NPY, npy(grey(5))),
        (NPY, npy(unit(grey(5)))),
        (NPY, npy(unit(grey(2)) + 1)),
        (NPY, npy(unit(grey(2)) - 1)),
        (NPY, npy(unit(grey(2)) * np.float32("nan"))),
        (NPY, npy(grey(2).astype(np.int64))),
        (NPY, npy(np.zeros((1, 8, 8, 2)))),
        (NPY, npy(np.zeros((1, 8, 8, 1, 1)))),
        (PNG, picture(grey(1)[0])[:-30]),
        (PNG, png(header(8, 8))),
        (PNG, png(header(0, 8), pixels(8, 8))),
        (PNG, png(header(8, 8), chunk(b"IDAT", b"x"))),
        (PNG, picture(grey(1, size=17)[0])),
    ],
)
def test_errors_are_those_of_the_long_way(kind: str, body: bytes) -> None:
    with pytest.raises(ServiceError) as short:
        reader(max_items=4, max_pixels=256).at_once(kind, body)
    with pytest.raises(ServiceError) as long:
        reader(max_items=4, max_pixels=256).of_body(kind, kind, body)
    told = [(type(raised.value), raised.value.detail, raised.value.errors) for raised in (short, long)]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (NPY, npy(np.repeat(grey(2)[..., None], 3, axis=3))),
        (PNG, picture(grey(1, size=9)[0])),
        (PNG, picture(colors(1)[0, :, :8])),
    ],
)
def test_what_would_be_fitted_is_refused_by_both(kind: str, body: bytes) -> None:
    with pytest.raises(ServiceError) as short:
        reader(refuse=True).at_once(kind, body)
    with pytest.raises(ServiceError) as long:
        reader(refuse=True).of_body(kind, kind, body)
    assert (short.value.detail, short.value.errors) == (long.value.detail, long.value.errors)
