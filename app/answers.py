"""Answers: arrays as JSON, .npy, pictures, animations and archives. Synchronous, for codec threads."""

import base64
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from app.negotiation import GIF, JPEG, PNG, WEBP, ZIP
from model.bundle.drawing import StillFormat, animate, encode_picture, tile

Pixels = NDArray[np.uint8]
Header = tuple[bytes, bytes]

LIGHT_NUMBERS = 4096
MILLISECONDS = 120  # of a frame in an animation

_STILL: Mapping[str, StillFormat] = {PNG: "png", WEBP: "webp", JPEG: "jpeg"}
_WIDEST = {PNG: 2**20, WEBP: 16383, JPEG: 65500}  # what the formats can hold, in pixels


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client."""

    status: int
    headers: list[Header]
    body: bytes


def answer(media: str, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Answer:
    """An answer with the headers that every body needs. Answers are computed, often with noise: caches keep none."""
    lines = [
        (b"content-type", media.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept"),
    ]
    lines += [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return Answer(status, lines, body)


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
    if media == GIF:
        return animate(images, "gif", milliseconds=MILLISECONDS)
    if media == WEBP and frames and len(images) > 1:
        return animate(images, "webp", milliseconds=MILLISECONDS)
    if len(images) == 1:
        return encode_picture(images[0], _STILL[media])
    # A strip that is wider than its format allows continues on the next row.
    columns = min(len(images), _WIDEST[media] // (images.shape[2] + 2)) if frames else None
    return encode_picture(tile(images, columns), _STILL[media])


def _archive(images: Pixels) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for i, image in enumerate(images):
            # A fixed date: the same pictures give the same archive.
            archive.writestr(zipfile.ZipInfo(f"{i:03}.png", (1980, 1, 1, 0, 0, 0)), encode_picture(image, "png"))
    return buffer.getvalue()
