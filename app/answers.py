"""Answers: arrays as JSON, .npy, pictures, animations and archives. Synchronous: for codec threads, unless small."""

import base64
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from app.negotiation import GIF, JPEG, PNG, WEBP, ZIP
from model.bundle.drawing import StillFormat, animate, encode_picture, tile

Pixels = NDArray[np.uint8]
Header = tuple[bytes, bytes]

LIGHT_NUMBERS = 2**16
"""So many numbers are written in milliseconds, as JSON too; `images.LIGHT_BYTES` says why that is not for a thread."""
LIGHT_PIXELS = 2**14
"""So many are compressed in half a millisecond."""
MILLISECONDS = 120  # of a frame in an animation

_STILL: Mapping[str, StillFormat] = {PNG: "png", WEBP: "webp", JPEG: "jpeg"}
_LONGEST = {PNG: 2**20, WEBP: 16383, JPEG: 65500}  # side of what the formats can hold, in pixels
_PADDING = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client."""

    status: int
    headers: Sequence[Header]
    body: bytes


def answer(media: str, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Answer:
    """An answer with the headers that every body needs. Answers are computed, often with noise: caches keep none."""
    lines = _usual_lines(media, len(body))
    if headers:
        lines += tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
    return Answer(status, lines, body)


@lru_cache(maxsize=1024)
def _usual_lines(media: str, length: int) -> tuple[Header, ...]:
    return (
        (b"content-type", media.encode()),
        (b"content-length", str(length).encode()),
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept"),
    )


def json_body(document: Mapping[str, object]) -> bytes:
    """JSON in which NumPy arrays stand for nested lists, written without making any list."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def npy_body(array: NDArray[np.generic]) -> bytes:
    """What numpy.save writes."""
    return b"".join((_npy_header(array.dtype.str, array.shape), np.ascontiguousarray(array).data))


@lru_cache(maxsize=256)
def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def png_texts(images: Pixels) -> list[str]:
    """(N, H, W, C) as base64 of one PNG each."""
    return [base64.b64encode(encode_picture(image, "png")).decode() for image in images]


def picture_body(images: Pixels, media: str, *, frames: bool) -> bytes:
    """Images (N, H, W, C) as one body of type ``media``.

    Several become a tidy grid; or, if they are ``frames`` in order, a strip (PNG, JPEG) or an animation (GIF, WebP).
    ZIP holds one PNG each.
    """
    if media == ZIP:
        return _archive(images)
    if _moves(len(images), media, frames=frames):
        return animate(images, "gif" if media == GIF else "webp", milliseconds=MILLISECONDS)
    if len(images) == 1:
        return encode_picture(images[0], _STILL[media])
    columns = _columns(len(images), images.shape[2], media, frames=frames)
    return encode_picture(tile(images, columns, padding=_PADDING), _STILL[media])


def fits(count: int, height: int, width: int, media: str, *, frames: bool) -> bool:
    """Can ``picture_body`` hold so many images of this size in a body of type ``media``?"""
    if media not in _STILL or _moves(count, media, frames=frames):
        return True
    columns = _columns(count, width, media, frames=frames)
    sides = (columns * (width + _PADDING), -(-count // columns) * (height + _PADDING))
    return max(sides) - _PADDING <= _LONGEST[media]


def _moves(count: int, media: str, *, frames: bool) -> bool:
    return media == GIF or (media == WEBP and frames and count > 1)


def _columns(count: int, width: int, media: str, *, frames: bool) -> int:
    """A grid as square as can be; a strip that is wider than its format allows continues on the next row."""
    if frames:
        return min(count, _LONGEST[media] // (width + _PADDING))
    return math.ceil(math.sqrt(count))


def _archive(images: Pixels) -> bytes:
    buffer = io.BytesIO()
    digits = max(3, len(str(len(images) - 1)))  # sorted names are in the order of the images
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for i, image in enumerate(images):
            # A fixed date: the same pictures give the same archive.
            name = f"{i:0{digits}}.png"
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), encode_picture(image, "png"))
    return buffer.getvalue()
